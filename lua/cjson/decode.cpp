// JSON text to Lua values by simdjson. It takes strict JSON only; whatever it refuses goes to
// decode_leniently(), which knows cjson's extensions and error messages.
#include <simdjson.h>

#include "lua/cjson/config.h"

namespace lua::cjson {
namespace {

namespace dom = simdjson::dom;

constexpr size_t kept_bytes_max = 4 << 20;     // of the parser's memory, between calls

// Keys come again and again in the objects of a list. The last ones are kept, in slots of Lua's
// stack, which cost a tenth of looking a string up.
class KeyCache {
  public:
    static constexpr int slots = 32;
    static constexpr size_t document_bytes_min = 256;   // smaller ones are not worth it

    explicit KeyCache(lua_State* L) : L(L), first_(lua_gettop(L) + 1) {
        lua_settop(L, first_ + slots - 1);
    }

    void push(std::string_view key) {
        size_t at = slot_of(key);
        if (keys_[at] == key && keys_[at].data()) return lua_pushvalue(L, first_ + int(at));
        lua_pushlstring(L, key.data(), key.size());
        size_t size;
        const char* kept = lua_tolstring(L, -1, &size);
        keys_[at] = {kept, size};
        lua_pushvalue(L, -1);
        lua_replace(L, first_ + int(at));
    }

  private:
    static size_t slot_of(std::string_view key) {
        if (key.empty()) return 0;
        auto byte = [&](size_t n) { return size_t(uint8_t(key[n])); };
        return (byte(0) * 7 + byte(key.size() / 2) * 3 + byte(key.size() - 1) + key.size()) %
               slots;
    }

    lua_State* L;
    int first_;
    std::string_view keys_[slots];
};

class Builder {
  public:
    // `keys` may be null.
    Builder(lua_State* L, const Config& config, KeyCache* keys)
        : L(L), config_(config), keys_(keys) {}

    // Pushes the element. False when it is nested too deeply.
    bool push(const dom::element& element, int depth);

  private:
    bool push_array(const dom::array& array, int depth);
    bool push_object(const dom::object& object, int depth);
    // Room for the tables, keys and values of the next levels.
    bool deeper(int depth) {
        if (depth > config_.decode_max_depth) return false;
        return depth % levels_at_once != 1 || lua_checkstack(L, 3 * levels_at_once + 4);
    }
    static constexpr int levels_at_once = 8;
    void push_text(std::string_view text) { lua_pushlstring(L, text.data(), text.size()); }

    lua_State* L;
    const Config& config_;
    KeyCache* keys_;
};

bool Builder::push_array(const dom::array& array, int depth) {
    if (!deeper(depth)) return false;
    lua_createtable(L, int(array.size()), 0);
    if (config_.decode_array_with_array_mt) {
        lua_pushlightuserdata(L, &array_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        lua_setmetatable(L, -2);
    }
    int index = 0;
    for (dom::element item : array) {
        if (!push(item, depth)) return false;
        lua_rawseti(L, -2, ++index);
    }
    return true;
}

bool Builder::push_object(const dom::object& object, int depth) {
    if (!deeper(depth)) return false;
    lua_createtable(L, 0, int(object.size()));
    for (dom::key_value_pair pair : object) {
        if (keys_) keys_->push(pair.key);
        else push_text(pair.key);
        if (!push(pair.value, depth)) return false;
        lua_rawset(L, -3);
    }
    return true;
}

bool Builder::push(const dom::element& element, int depth) {
    switch (element.type()) {
    case dom::element_type::ARRAY:
        return push_array(element.get_array().value_unsafe(), depth + 1);
    case dom::element_type::OBJECT:
        return push_object(element.get_object().value_unsafe(), depth + 1);
    case dom::element_type::STRING:
        push_text(element.get_string().value_unsafe());
        return true;
    case dom::element_type::INT64:
        lua_pushnumber(L, double(element.get_int64().value_unsafe()));
        return true;
    case dom::element_type::UINT64:
        lua_pushnumber(L, double(element.get_uint64().value_unsafe()));
        return true;
    case dom::element_type::DOUBLE:
        lua_pushnumber(L, element.get_double().value_unsafe());
        return true;
    case dom::element_type::BOOL:
        lua_pushboolean(L, element.get_bool().value_unsafe());
        return true;
    case dom::element_type::NULL_VALUE:
        lua_pushlightuserdata(L, nullptr);
        return true;
    }
    return false;
}

bool build(lua_State* L, const Config& config, const dom::element& root, size_t bytes) {
    if (bytes < KeyCache::document_bytes_min || !lua_checkstack(L, KeyCache::slots + 4))
        return Builder(L, config, nullptr).push(root, 0);
    KeyCache keys(L);
    return Builder(L, config, &keys).push(root, 0);
}

}  // namespace

void decode(lua_State* L, const Config& config, const char* text, size_t bytes) {
    thread_local dom::parser parser;
    int top = lua_gettop(L);
    dom::element root;
    if (!parser.parse(text, bytes, true).get(root) && build(L, config, root, bytes)) {
        if (parser.capacity() > kept_bytes_max) parser = dom::parser();
        return;
    }
    lua_settop(L, top);
    decode_leniently(L, config, text, bytes);
}

}  // namespace lua::cjson
