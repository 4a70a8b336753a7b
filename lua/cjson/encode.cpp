// Lua values to JSON text, all kinds of them.
#include <cmath>

#include "lua/cjson/writer.h"

namespace lua::cjson {

char array_key;
char empty_array_key;

namespace {

class Encoder {
  public:
    Encoder(lua_State* L, const Config& config, Text& text)
        : L(L), config_(config), text_(text) {}

    // The value on top of the stack. False: of a type that is to be left out.
    bool value(int depth);

  private:
    [[noreturn]] void fail(int index, const char* reason);
    void string(int index);
    void number(int index);
    bool invalid_number(int index, double number);
    void table(int depth);
    bool is_metatable(char& key);
    int array_length();
    void array(int depth, int length, bool raw);
    void object(int depth);
    void new_line(int depth);

    lua_State* L;
    const Config& config_;
    Text& text_;
};

void Encoder::fail(int index, const char* reason) {
    luaL_error(L, "Cannot serialise %s: %s", luaL_typename(L, index), reason);
    __builtin_unreachable();
}

void Encoder::string(int index) {
    size_t size;
    const char* from = lua_tolstring(L, index, &size);
    write_string(text_, {from, size}, config_.encode_escape_forward_slash);
}

// Writes NaN and infinities as the settings say; false for a number that has digits.
bool Encoder::invalid_number(int index, double number) {
    if (std::isfinite(number)) return false;
    switch (InvalidNumbers(config_.encode_invalid_numbers)) {
    case InvalidNumbers::refused:
        fail(index, "must not be NaN or Infinity");
    case InvalidNumbers::null:
        text_.add("null");
        break;
    case InvalidNumbers::written:
        text_.add(std::isnan(number) ? "NaN" : number < 0 ? "-Infinity" : "Infinity");
        break;
    }
    return true;
}

void Encoder::number(int index) {
    double number = lua_tonumber(L, index);
    if (!invalid_number(index, number))
        write_number(text_, number, config_.encode_number_precision);
}

void Encoder::new_line(int depth) {
    text_.add('\n');
    for (int n = 0; n < depth; n++) text_.add(config_.encode_indent);
}

// How long the table is as an array; -1: it is none.
int Encoder::array_length() {
    int max = 0, items = 0;
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        double key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
        if (key < 1 || key != std::floor(key) || key > INT32_MAX) {
            lua_pop(L, 2);
            return -1;
        }
        if (key > max) max = int(key);
        items++;
        lua_pop(L, 1);
    }
    int64_t dense = int64_t(items) * config_.sparse_ratio;
    if (config_.sparse_ratio > 0 && max > dense && max > config_.sparse_safe) {
        if (!config_.sparse_convert) fail(-1, "excessively sparse array");
        return -1;
    }
    return max;
}

void Encoder::array(int depth, int length, bool raw) {
    bool indent = !config_.encode_indent.empty();
    text_.add('[');
    bool first = true;
    for (int n = 1; n <= length; n++) {
        size_t before = text_.size();
        if (!first) text_.add(',');
        if (indent) new_line(depth);
        if (raw) {
            lua_rawgeti(L, -1, n);
        } else {
            lua_pushinteger(L, n);
            lua_gettable(L, -2);
        }
        if (value(depth)) {
            first = false;
        } else {
            text_.cut(before);
        }
        lua_pop(L, 1);
    }
    if (length > 0 && indent) new_line(depth - 1);
    text_.add(']');
}

void Encoder::object(int depth) {
    bool indent = !config_.encode_indent.empty();
    bool first = true, any = false;
    text_.add('{');
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        any = true;
        size_t before = text_.size();
        if (!first) text_.add(',');
        if (indent) new_line(depth);
        if (lua_type(L, -2) == LUA_TSTRING) {
            string(-2);
            text_.add(':');
        } else if (lua_type(L, -2) == LUA_TNUMBER) {
            text_.add('"');
            number(-2);
            text_.add("\":");
        } else {
            fail(-2, "table key must be a number or string");
        }
        if (indent) text_.add(' ');
        if (value(depth)) {
            first = false;
        } else {
            text_.cut(before);
        }
        lua_pop(L, 1);
    }
    if (any && indent) new_line(depth - 1);
    text_.add('}');
}

// Is the table's metatable the one kept under this key?
bool Encoder::is_metatable(char& key) {
    if (!lua_getmetatable(L, -1)) return false;
    lua_pushlightuserdata(L, &key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

void Encoder::table(int depth) {
    if (depth > config_.encode_max_depth || !lua_checkstack(L, 6)) {
        luaL_error(L, "Cannot serialise, excessive nesting (%d)", depth);
    }
    bool has_metatable = lua_getmetatable(L, -1);
    if (has_metatable) {
        lua_pop(L, 1);
        if (is_metatable(array_key)) return array(depth, int(lua_objlen(L, -1)), true);
        if (luaL_getmetafield(L, -1, "__len")) {
            lua_pushvalue(L, -2);
            lua_call(L, 1, 1);
            int length = int(lua_tonumber(L, -1));
            lua_pop(L, 1);
            return array(depth, length, false);
        }
    }
    int length = array_length();
    if (length > 0 || (length == 0 && !config_.encode_empty_table_as_object)) {
        return array(depth, length, !has_metatable);
    }
    if (has_metatable && is_metatable(empty_array_key)) {
        return array(depth, int(lua_objlen(L, -1)), true);
    }
    object(depth);
}

bool Encoder::value(int depth) {
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        string(-1);
        return true;
    case LUA_TNUMBER:
        number(-1);
        return true;
    case LUA_TBOOLEAN:
        text_.add(lua_toboolean(L, -1) ? "true" : "false");
        return true;
    case LUA_TTABLE:
        table(depth + 1);
        return true;
    case LUA_TNIL:
        text_.add("null");
        return true;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, -1)) {
            text_.add("null");
        } else if (lua_touserdata(L, -1) == &array_key) {
            text_.add("[]");
        }
        return true;
    default:
        if (config_.encode_skip_unsupported_value_types) return false;
        fail(-1, "type not supported");
    }
}

}  // namespace

void encode(lua_State* L, const Config& config) {
    Text text(config.encode_keep_buffer);
    if (!encode_plain(L, config, text)) Encoder(L, config, text).value(0);
    lua_pushlstring(L, text.data(), text.size());
}

}  // namespace lua::cjson
