// JSON text to Lua values by simdjson. It takes strict JSON only; whatever it refuses goes to
// decode_leniently(), which knows cjson's extensions and error messages.
#include <simdjson.h>

#include "lua/cjson/config.h"

namespace lua::cjson {
namespace {

namespace dom = simdjson::dom;

constexpr size_t kept_bytes_max = 4 << 20;     // of the parser's memory, between calls

class Builder {
  public:
    Builder(lua_State* L, const Config& config) : L(L), config_(config) {}

    // Pushes the element. False when it is nested too deeply.
    bool push(const dom::element& element, int depth);

  private:
    bool push_array(const dom::array& array, int depth);
    bool push_object(const dom::object& object, int depth);
    bool deeper(int depth) { return depth <= config_.decode_max_depth && lua_checkstack(L, 4); }
    void push_text(std::string_view text) { lua_pushlstring(L, text.data(), text.size()); }

    lua_State* L;
    const Config& config_;
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
        push_text(pair.key);
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

}  // namespace

void decode(lua_State* L, const Config& config, const char* text, size_t bytes) {
    thread_local dom::parser parser;
    int top = lua_gettop(L);
    dom::element root;
    if (!parser.parse(text, bytes, true).get(root) && Builder(L, config).push(root, 0)) {
        if (parser.capacity() > kept_bytes_max) parser = dom::parser();
        return;
    }
    lua_settop(L, top);
    decode_leniently(L, config, text, bytes);
}

}  // namespace lua::cjson
