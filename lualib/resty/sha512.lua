-- A running SHA512 digest: new(), update(), final(), reset().

return require("resty.digest")("SHA512", 64)
