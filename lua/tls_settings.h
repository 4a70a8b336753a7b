// What lua_ssl_* directives make: the TLS context that sslhandshake() uses in a location. Called by
// the inheritance of LuaConf, and by lua/api/socket_tls.cpp.
#pragma once

#include <memory>

#include "conf/directive.h"
#include "core/socket.h"
#include "core/tls.h"

namespace conf {
class Binder;
}

namespace lua {

struct LuaConf;

struct TlsSettings {
    std::shared_ptr<core::TlsContext> context;
    core::Fd key_log;                    // lua_ssl_key_log
};

// The settings of a level: the enclosing one's where nothing differs, none where nothing is set.
conf::Result<void> inherit_tls_settings(LuaConf& conf, const LuaConf* outer, conf::Binder& binder);
// The context to use; null when OpenSSL has no memory.
std::shared_ptr<core::TlsContext> tls_context_of(const LuaConf& conf);

}  // namespace lua
