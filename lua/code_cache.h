// LuaChunk: the code of one by_lua directive, inline text or a file (whose path may contain
// variables); and the compiled functions kept by key, as upstream keys them, so that equal code in
// two places is one function. Used by lua/by_lua.cpp and lua/set_by_lua.cpp.
#pragma once

#include <memory>
#include <string>

#include <lua.hpp>

#include "conf/directive.h"
#include "core/log.h"
#include "core/result.h"
#include "server/http/variables.h"

namespace server {
class Request;
}

namespace lua {

class LuaVm;

class LuaChunk {
  public:
    enum class Form : uint8_t { text, file };    // text: a block or a string

    // From the directive's line: `argument` is the one that holds the code or the path; `tag` names
    // the directive in chunk names ("content_by_lua"). Compiles nothing.
    static conf::Result<std::shared_ptr<LuaChunk>> from(const conf::Line& line, size_t argument,
                                                        const char* tag, Form form);

    // Pushes the function onto `to` (a coroutine of vm). Otherwise logs why, in upstream's words,
    // and returns what the client gets: 500, 404 for a missing file, 503 for one that cannot be
    // read. 0: pushed.
    int push(LuaVm& vm, lua_State* to, server::Request* request, const core::LogContext& log) {
        if (&vm == cached_in_) [[likely]] {
            lua_rawgeti(to, LUA_REGISTRYINDEX, cached_);
            return 0;
        }
        return push_uncached(vm, to, request, log);
    }
    // Compiles without a request, where nothing in it is variable (-t).
    core::Result<void> check(LuaVm& vm) const;
    // Pushes it uncached, for code that runs once. False: "WHAT error: …" was logged.
    bool push_once(lua_State* to, const core::LogContext& log, const char* what) const;
    // The same on vm's main thread, and calls it (init_by_lua).
    bool call_main(LuaVm& vm, const core::LogContext& log, const char* what);

    bool is_file() const { return form_ == Form::file; }
    // lua_code_cache auto: a change of the file is taken up by the next push().
    void follow() { follows_ = true; }
    // Compiles it in a worker that begins, so that there is a good version when one breaks.
    void prefetch(LuaVm& vm) const;
    // The machine goes away, and with it the functions of such files.
    static void forget_followed();
    ~LuaChunk();
    const std::string& chunkname() const { return chunkname_; }

  private:
    LuaChunk() = default;
    bool follows(const LuaVm& vm, server::Request* request) const;
    int push_followed(LuaVm& vm, lua_State* to, const std::string& path,
                      const core::LogContext& log);
    static void file_changed(const std::string& path, bool by_module);
    int push_uncached(LuaVm& vm, lua_State* to, server::Request* request,
                      const core::LogContext& log);
    int push_keyed(lua_State* to, const std::string& key, const std::string& source,
                   const core::LogContext& log);
    int load(lua_State* to, const std::string& source) const;

    Form form_ = Form::text;
    std::string key_;
    std::string source_;               // code, or the file's absolute path when that is constant
    server::ComplexValue path_;        // of a file, when it is not
    std::string prefix_;               // of relative paths
    std::string chunkname_;            // "=content_by_lua(nginx.conf:12)"
    LuaVm* cached_in_ = nullptr;
    int cached_ = LUA_NOREF;           // registry reference of the function in that machine
    bool follows_ = false;
    bool is_listed_ = false;           // among those of its file
};

}  // namespace lua
