-- A running SHA224 digest: new(), update(), final(), reset().

return require("resty.digest")("SHA224", 28)
