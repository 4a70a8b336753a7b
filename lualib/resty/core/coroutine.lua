-- coroutine.*: lua/api/coroutine.cpp put the scheduler's functions in place; they run a coroutine
-- on the C stack by themselves where the scheduler cannot. Here only so that it can be required.

return { version = require("resty.core.base").version }
