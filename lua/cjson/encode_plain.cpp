// JSON of plain tables, read where LuaJIT keeps them rather than by lua_next() and its relatives,
// which cost four times as much. Takes tables without metatables (but cjson's own), of strings,
// finite numbers, booleans, null and tables like that; encode.cpp does what it refuses.
//
// The layout below is that of LuaJIT 2.1 with 64-bit references, unchanged since 2016.
// can_read_tables() proves it on samples each time a machine is made; where it fails, this file is
// not used.
#include <cstdint>

#include "lua/cjson/writer.h"

namespace lua::cjson {
namespace {

struct TableValue { uint64_t bits; };
struct Pair { TableValue value, key; uint64_t next; };
struct StringObject {
    uint64_t next;
    uint8_t marked, kind, reserved, hash_kind;
    uint32_t id, hash, size;
    core::Slice text() const { return {reinterpret_cast<const char*>(this + 1), size}; }
};
struct TableObject {
    uint64_t next;
    uint8_t marked, kind, no_metamethods;
    int8_t colocated;
    const TableValue* array;
    uint64_t grey;
    const TableObject* metatable;
    const Pair* pairs;
    uint32_t array_size, pairs_mask;
};

// The upper 17 bits of what is no number. Smaller ones belong to numbers.
enum Tag : uint32_t {
    tag_nil = ~0u, tag_false = ~1u, tag_true = ~2u, tag_pointer = ~3u, tag_string = ~4u,
    tag_table = ~11u, tag_integer = ~13u,
};
constexpr int tag_shift = 47;
constexpr uint64_t reference_mask = (uint64_t(1) << tag_shift) - 1;

uint32_t tag_of(TableValue value) { return uint32_t(int64_t(value.bits) >> tag_shift); }
bool is_nil(TableValue value) { return tag_of(value) == tag_nil; }

template <class Object>
const Object& object_of(TableValue value) {
    return *reinterpret_cast<const Object*>(value.bits & reference_mask);
}

double number_of(TableValue value) {
    if (tag_of(value) == tag_integer) return int32_t(value.bits);
    double number;
    std::memcpy(&number, &value.bits, sizeof number);
    return number;
}

class PlainEncoder {
  public:
    PlainEncoder(lua_State* L, const Config& config, Text& text)
        : L(L), config_(config), text_(text) {}

    // False: something in it is not plain; what was written does not count.
    bool table(const TableObject& table, int depth);

  private:
    bool value(TableValue value, int depth);
    bool array(const TableObject& table, uint32_t end, int depth);
    bool object(const TableObject& table, int depth);
    const void* own_metatable(char& key);

    lua_State* L;
    const Config& config_;
    Text& text_;
};

bool PlainEncoder::value(TableValue value, int depth) {
    uint32_t tag = tag_of(value);
    switch (tag) {
    case tag_string:
        write_string(text_, object_of<StringObject>(value).text(),
                     config_.encode_escape_forward_slash);
        return true;
    case tag_table: return table(object_of<TableObject>(value), depth + 1);
    case tag_true: text_.add("true"); return true;
    case tag_false: text_.add("false"); return true;
    case tag_pointer:
        if (value.bits & reference_mask) return false;
        text_.add("null");
        return true;
    default:
        if (tag > tag_integer) return false;
        double number = number_of(value);
        if (!std::isfinite(number)) return false;
        write_number(text_, number, config_.encode_number_precision);
        return true;
    }
}

bool PlainEncoder::array(const TableObject& table, uint32_t end, int depth) {
    text_.add('[');
    for (uint32_t n = 1; n < end; n++) {
        if (n > 1) text_.add(',');
        if (is_nil(table.array[n]) || !value(table.array[n], depth)) return false;
    }
    text_.add(']');
    return true;
}

bool PlainEncoder::object(const TableObject& table, int depth) {
    char before = '{';
    for (uint32_t n = 0; n <= table.pairs_mask; n++) {
        const Pair& pair = table.pairs[n];
        if (is_nil(pair.value)) continue;
        if (tag_of(pair.key) != tag_string) return false;
        text_.add(before);
        before = ',';
        write_string(text_, object_of<StringObject>(pair.key).text(),
                     config_.encode_escape_forward_slash);
        text_.add(':');
        if (!value(pair.value, depth)) return false;
    }
    text_.add('}');
    return true;
}

const void* PlainEncoder::own_metatable(char& key) {
    lua_pushlightuserdata(L, &key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    const void* found = lua_topointer(L, -1);
    lua_pop(L, 1);
    return found;
}

bool PlainEncoder::table(const TableObject& table, int depth) {
    if (depth > config_.encode_max_depth) return false;
    uint32_t end = table.array_size;           // behind the last item
    while (end && is_nil(table.array[end - 1])) --end;
    bool has_pairs = false;
    for (uint32_t n = 0; n <= table.pairs_mask && !has_pairs; n++)
        has_pairs = !is_nil(table.pairs[n].value);
    if (end && (has_pairs || !is_nil(table.array[0]))) return false;
    bool as_object = config_.encode_empty_table_as_object;
    if (table.metatable) {
        bool marked = table.metatable == own_metatable(array_key) ||
                      table.metatable == own_metatable(empty_array_key);
        if (!marked || has_pairs) return false;
        as_object = false;
    }
    if (end) return array(table, end, depth);
    if (has_pairs) return object(table, depth);
    text_.add(as_object ? "{}" : "[]");
    return true;
}

bool readable = false;

// {7, "item", [4] = true} beside name = "value", inner = {}, or not: as this file reads them?
bool reads_samples(lua_State* L) {
    lua_createtable(L, 4, 2);
    int at = lua_gettop(L);
    lua_pushinteger(L, 7);
    lua_rawseti(L, at, 1);
    lua_pushliteral(L, "item");
    lua_rawseti(L, at, 2);
    lua_pushboolean(L, 1);
    lua_rawseti(L, at, 4);
    lua_pushliteral(L, "value");
    lua_setfield(L, at, "name");
    lua_newtable(L);
    const void* inner = lua_topointer(L, -1);
    lua_setfield(L, at, "inner");
    lua_newtable(L);
    const void* metatable = lua_topointer(L, -1);
    lua_setmetatable(L, at);
    auto& table = *static_cast<const TableObject*>(lua_topointer(L, at));
    if (table.array_size != 5 || table.pairs_mask != 1 || table.metatable != metatable ||
        !table.array || !table.pairs) return false;
    const TableValue* item = table.array;
    if (!is_nil(item[0]) || tag_of(item[1]) > tag_integer || number_of(item[1]) != 7 ||
        tag_of(item[2]) != tag_string || object_of<StringObject>(item[2]).text() != "item" ||
        !is_nil(item[3]) || tag_of(item[4]) != tag_true) return false;
    int found = 0;
    for (const Pair* pair = table.pairs; pair < table.pairs + 2; pair++) {
        if (tag_of(pair->key) != tag_string) return false;
        core::Slice key = object_of<StringObject>(pair->key).text();
        if (key == "name" && tag_of(pair->value) == tag_string &&
            object_of<StringObject>(pair->value).text() == "value") found |= 1;
        if (key == "inner" && tag_of(pair->value) == tag_table &&
            &object_of<TableObject>(pair->value) == inner) found |= 2;
    }
    return found == 3;
}

}  // namespace

void learn_to_read_tables(lua_State* L) {
    int top = lua_gettop(L);
    readable = reads_samples(L);
    lua_settop(L, top);
}

bool encode_plain(lua_State* L, const Config& config, Text& text) {
    if (!readable || !config.encode_indent.empty() || !lua_istable(L, -1)) return false;
    auto& table = *static_cast<const TableObject*>(lua_topointer(L, -1));
    if (lua_checkstack(L, 1) && PlainEncoder(L, config, text).table(table, 1)) return true;
    text.cut(0);
    return false;
}

}  // namespace lua::cjson
