-- A running SHA1 digest: new(), update(), final(), reset().

return require("resty.digest")("SHA1", 20)
