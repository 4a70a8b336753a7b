-- The ngx API's FFI half: one module a topic. Loaded when a virtual machine is made.

require "resty.core.var"
require "resty.core.worker"
require "resty.core.regex"
require "resty.core.shdict"
require "resty.core.time"
require "resty.core.hash"
require "resty.core.uri"
require "resty.core.exit"
require "resty.core.base64"
require "resty.core.request"
require "resty.core.response"
require "resty.core.phase"
require "resty.core.ndk"
require "resty.core.coroutine"
require "resty.core.param"
require "resty.core.socket"
require "resty.core.misc"
require "resty.core.ctx"

return { version = require("resty.core.base").version }
