-- A running MD5 digest: new(), update(), final(), reset().

return require("resty.digest")("MD5", 16)
