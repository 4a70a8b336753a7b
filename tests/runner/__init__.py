"""What the test programs share: a server under test, a plain HTTP/1.1 client, case files."""
