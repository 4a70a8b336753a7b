// Compiling and keeping the code of by_lua directives; see code_cache.h.
#include "lua/code_cache.h"

#include <cerrno>
#include <unistd.h>

#include <unordered_map>
#include <utility>
#include <vector>

#include "core/text.h"
#include "lua/api.h"
#include "lua/conf.h"
#include "lua/fixed_arguments.h"
#include "lua/source_file.h"
#include "lua/sources.h"
#include "lua/vm.h"
#include "server/http/request.h"

namespace lua {
namespace {

// LuaJIT shows this many bytes of a chunk's name in messages; a longer path keeps its end.
constexpr size_t chunkname_max = 56;

// "=content_by_lua(nginx.conf:12)": paths below the configuration's folder are relative to it.
std::string make_chunkname(const conf::Line& line, core::Slice tag) {
    core::Slice file = line.node.place.file ? core::Slice(*line.node.place.file) : core::Slice{};
    std::string number = std::to_string(line.node.place.line);
    core::Slice folder = line.binder.conf_prefix;
    core::Slice shown = file;
    bool main_file = file.ends_with("/nginx.conf");
    if (main_file) shown = file.substr(file.size() - 10);
    else if (!folder.empty() && file.size() > folder.size() && file.starts_with(folder))
        shown = file.substr(folder.size());
    size_t fixed = tag.size() + number.size();
    std::string name = "=" + std::string(tag) + "(";
    if (!main_file && shown.size() + fixed > chunkname_max) {
        name += "...";
        shown = shown.substr(shown.size() - (chunkname_max - fixed - 3));
    }
    return name.append(shown).append(":").append(number).append(")");
}

std::string absolute(core::Slice path, const std::string& prefix) {
    return path.starts_with("/") ? std::string(path) : prefix + std::string(path);
}

// The table of compiled functions by key, in the registry.
void push_cache(lua_State* L) {
    static const char key = 0;
    lua_pushlightuserdata(L, const_cast<char*>(&key));
    lua_rawget(L, LUA_REGISTRYINDEX);
    if (lua_istable(L, -1)) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushlightuserdata(L, const_cast<char*>(&key));
    lua_pushvalue(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

// A file that is followed (lua_code_cache auto). Its function is the last good one.
struct FollowedCode {
    enum State : uint8_t { changed, ready, failed } state = changed;
    int function = LUA_NOREF;
    bool was_bad = false;
    std::vector<LuaChunk*> chunks;         // that keep the function themselves
};

std::unordered_map<std::string, FollowedCode>& followed_code() {
    static auto* const instance = new std::unordered_map<std::string, FollowedCode>;
    return *instance;
}

}  // namespace

conf::Result<std::shared_ptr<LuaChunk>> LuaChunk::from(const conf::Line& line, size_t argument,
                                                       const char* tag, Form form) {
    std::shared_ptr<LuaChunk> chunk(new LuaChunk);
    core::Slice text = line.arg(argument);
    chunk->form_ = form;
    chunk->prefix_ = line.binder.prefix;
    if (form == Form::text) {
        chunk->source_ = text;
        chunk->chunkname_ = make_chunkname(line, tag);
        chunk->key_ = std::string(tag) + "\n" + chunk->source_;
        return chunk;
    }
    if (text.find('$') == core::Slice::npos) {
        chunk->source_ = absolute(text, chunk->prefix_);
        chunk->key_ = "file\n" + chunk->source_;
        return chunk;
    }
    auto path = server::ComplexValue::compile(text, line);
    if (!path) return path.take_error();
    chunk->path_ = std::move(*path);
    return chunk;
}

int LuaChunk::load(lua_State* to, const std::string& source) const {
    if (form_ == Form::file) return luaL_loadfile(to, source.c_str());
    return luaL_loadbuffer(to, source.data(), source.size(), chunkname_.c_str());
}

int LuaChunk::push_uncached(LuaVm& vm, lua_State* to, server::Request* request,
                            const core::LogContext& log) {
    if (!path_.empty()) {
        std::string path = absolute(request ? path_.evaluate(*request) : core::Slice{}, prefix_);
        if (follows(vm, request)) return push_followed(vm, to, path, log);
        return push_keyed(to, "file\n" + path, path, log);
    }
    if (follows(vm, request)) return push_followed(vm, to, source_, log);
    int status = push_keyed(to, key_, source_, log);
    if (status == 0 && &vm == LuaVm::current()) {
        lua_pushvalue(to, -1);
        cached_ = luaL_ref(to, LUA_REGISTRYINDEX);
        cached_in_ = &vm;
    }
    return status;
}

int LuaChunk::push_keyed(lua_State* to, const std::string& key, const std::string& source,
                         const core::LogContext& log) {
    push_cache(to);
    push_slice(to, key);
    lua_rawget(to, -2);
    if (lua_isfunction(to, -1)) {
        lua_remove(to, -2);
        return 0;
    }
    lua_pop(to, 1);
    errno = 0;
    int status = load(to, source);
    if (status == 0) {
        fix_arguments(to);
        push_slice(to, key);
        lua_pushvalue(to, -2);
        lua_rawset(to, -4);
        lua_remove(to, -2);
        return 0;
    }
    int answer = status != LUA_ERRFILE ? 500 : errno == ENOENT ? 404 : 503;
    const char* why = lua_tostring(to, -1);
    std::string text = form_ == Form::file
                           ? "failed to load external Lua file \"" + source + "\": "
                           : std::string("failed to load inlined Lua code: ");
    core::log_text(log, core::Level::error, 0, text + (why ? why : "unknown error"));
    lua_pop(to, 2);
    return answer;
}

// ---- lua_code_cache auto ----

LuaChunk::~LuaChunk() {
    if (!is_listed_) return;
    auto known = followed_code().find(source_);
    if (known != followed_code().end()) std::erase(known->second.chunks, this);
}

void LuaChunk::forget_followed() { followed_code().clear(); }

bool LuaChunk::follows(const LuaVm& vm, server::Request* request) const {
    if (form_ != Form::file || !follows_modules(vm)) return false;
    return follows_ ||
           (request && request->conf<LuaConf>(lua_module).code_cache.value == CodeCache::automatic);
}

namespace {

// Reads and compiles the newest version. 0, or what the client gets when nothing good was there.
int take_version(FollowedCode& code, lua_State* L, const std::string& path,
                 const core::LogContext& log) {
    // Paths can be what clients ask for: those that nothing is at leave nothing behind.
    if (FileStamp::of(path)) follow_file(path);
    // The last good version goes on; the end of the writing is told, and requests look again.
    if (code.function != LUA_NOREF && is_being_written(path)) return 0;
    SourceText source = read_settled(path);
    if (!source) {
        luaL_unref(L, LUA_REGISTRYINDEX, std::exchange(code.function, LUA_NOREF));
        core::log_text(log, core::Level::error, 0,
                       "failed to load external Lua file \"" + path + "\": " + source.error);
        return source.missing ? 404 : 503;
    }
    if (luaL_loadbuffer(L, source.text.data(), source.text.size(), ("@" + path).c_str()) != 0) {
        const char* why = lua_tostring(L, -1);
        report_failure(path, why ? why : "unknown error", code.function != LUA_NOREF);
        lua_pop(L, 1);
        code.state = FollowedCode::failed;
        code.was_bad = true;
        return code.function == LUA_NOREF ? 500 : 0;
    }
    fix_arguments(L);
    luaL_unref(L, LUA_REGISTRYINDEX, code.function);
    code.function = luaL_ref(L, LUA_REGISTRYINDEX);
    code.state = FollowedCode::ready;
    if (std::exchange(code.was_bad, false)) report_healed(path);
    return 0;
}

}  // namespace

// Called from the loop. The new version is compiled at once: what is wrong with it is said when it
// is saved.
void LuaChunk::file_changed(const std::string& path, bool by_module) {
    auto known = followed_code().find(path);
    if (by_module || known == followed_code().end()) return;
    FollowedCode& code = known->second;
    code.state = FollowedCode::changed;
    for (LuaChunk* chunk : code.chunks) {
        chunk->cached_in_ = nullptr;
        chunk->is_listed_ = false;
    }
    code.chunks.clear();
    if (LuaVm::current() && FileStamp::of(path))
        take_version(code, LuaVm::current()->L, path, core::process_log());
}

void LuaChunk::prefetch(LuaVm& vm) const {
    if (form_ != Form::file || !path_.empty() || !follows_ || !FileStamp::of(source_)) return;
    add_file_listener(file_changed);
    take_version(followed_code()[source_], vm.L, source_, core::process_log());
}

int LuaChunk::push_followed(LuaVm& vm, lua_State* to, const std::string& path,
                            const core::LogContext& log) {
    add_file_listener(file_changed);
    FollowedCode& code = followed_code()[path];
    if (code.state == FollowedCode::changed) {
        int status = take_version(code, to, path, log);
        if (status == 404) followed_code().erase(path);
        if (status) return status;
    }
    if (code.function == LUA_NOREF) return 500;
    lua_rawgeti(to, LUA_REGISTRYINDEX, code.function);
    if (!path_.empty() || is_listed_ || code.state == FollowedCode::changed) return 0;
    code.chunks.push_back(this);
    is_listed_ = true;
    cached_ = code.function;
    cached_in_ = &vm;
    return 0;
}

core::Result<void> LuaChunk::check(LuaVm& vm) const {
    if (!path_.empty()) return {};
    if (form_ == Form::file && access(source_.c_str(), F_OK) != 0) return {};
    int status = load(vm.L, source_);
    std::string why = status ? lua_tostring(vm.L, -1) : "";
    lua_settop(vm.L, 0);
    if (status == 0) return {};
    return core::Error{why};
}

bool LuaChunk::push_once(lua_State* to, const core::LogContext& log, const char* what) const {
    if (load(to, source_) == 0) return true;
    const char* why = lua_tostring(to, -1);
    core::log_text(log, core::Level::error, 0,
                   std::string(what) + " error: " + (why ? why : "unknown error"));
    lua_pop(to, 1);
    return false;
}

bool LuaChunk::call_main(LuaVm& vm, const core::LogContext& log, const char* what) {
    return push_once(vm.L, log, what) && lua::call_main(vm.L, log, what);
}

}  // namespace lua
