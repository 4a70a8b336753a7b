-- A running SHA256 digest: new(), update(), final(), reset().

return require("resty.digest")("SHA256", 32)
