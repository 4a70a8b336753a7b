// Small helpers of the exported ngx_http_lua_ffi_* functions: pointers and lengths to slices and
// back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/slice.h"
#include "lua/api.h"

namespace lua {

inline core::Slice slice(const void* data, size_t length) {
    return {static_cast<const char*>(data), length};
}
inline core::Slice slice(const ngx_http_lua_ffi_str_t& text) {
    return slice(text.data, size_t(text.len));
}
inline unsigned char* bytes_of(core::Slice text) {
    return reinterpret_cast<unsigned char*>(const_cast<char*>(text.data()));
}
inline void give(ngx_http_lua_ffi_str_t& to, core::Slice text) {
    to = {int(text.size()), bytes_of(text)};
}
// An error text into the caller's buffer; *length is its room, then the text's length.
inline int ffi_fail(core::Slice why, unsigned char* buffer, size_t* length) {
    *length = std::min(*length, why.size());
    std::memcpy(buffer, why.data(), *length);
    return ffi_error;
}

// The task's request when it has one: timers and worker phases have none.
inline server::Request* request_of(const LuaTask* task) { return task ? task->request : nullptr; }

}  // namespace lua
