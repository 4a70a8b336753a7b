// LuaChunk: the code of one by_lua directive, inline text or a file, perhaps with variables in it;
// and the compiled functions kept by key, as upstream keys them, so that equal code in two places
// is one function. Used by lua/by_lua.cpp.
#pragma once

#include <memory>
#include <string>

#include <lua.hpp>

#include "conf/directive.h"
#include "core/result.h"
#include "server/http/variables.h"

namespace server {
class Request;
}

namespace lua {

class LuaVm;

class LuaChunk {
  public:
    enum class Form : uint8_t { block, text, file };

    // From the directive's line: `argument` holds the code or the path. Compiles nothing.
    static conf::Result<std::shared_ptr<LuaChunk>> from(const conf::Line& line, size_t argument,
                                                        Form form);

    // Pushes the function onto `to` (a coroutine of vm). False: nothing pushed, `error` tells why,
    // in upstream's words, and `status` what the client gets (500, or 404 for a missing file).
    bool push(LuaVm& vm, lua_State* to, server::Request* request, std::string& error,
              int& status) const;
    // Compiles without a request, where nothing in it is variable. For -t and at boot.
    core::Result<void> check(LuaVm& vm) const;

    const std::string& chunkname() const { return chunkname_; }
    const conf::Place& place() const { return place_; }

  private:
    LuaChunk() = default;

    Form form_ = Form::block;
    std::string source_;               // code, or the file's path (absolute) when constant
    bool variable_ = false;            // value_ is to be evaluated
    server::ComplexValue value_;
    std::string chunkname_;            // "=content_by_lua(nginx.conf:12)"
    std::string prefix_;               // of relative paths
    conf::Place place_;
    mutable LuaVm* cached_in_ = nullptr;
    mutable int cached_ = LUA_NOREF;   // registry reference of the function in that machine
};

}  // namespace lua
