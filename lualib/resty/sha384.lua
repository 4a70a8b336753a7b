-- A running SHA384 digest: new(), update(), final(), reset().

return require("resty.digest")("SHA384", 48)
