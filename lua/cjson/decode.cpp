// JSON text to Lua values by simdjson. It takes strict JSON only; whatever it refuses goes to
// decode_leniently(), which knows cjson's extensions and error messages.
#include <simdjson.h>

#include <cstring>

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
        if (is_kept(keys_[at], key)) return lua_pushvalue(L, first_ + int(at));
        lua_pushlstring(L, key.data(), key.size());
        size_t size;
        const char* kept = lua_tolstring(L, -1, &size);
        keys_[at] = {kept, size};
        lua_pushvalue(L, -1);
        lua_replace(L, first_ + int(at));
    }

  private:
    static bool is_kept(std::string_view kept, std::string_view key) {
        if (kept.size() != key.size() || !kept.data()) return false;
        size_t n = 0;
        while (n < key.size() && kept[n] == key[n]) ++n;
        return n == key.size();
    }
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

// Walks simdjson's tape (its doc/tape.md): a word for each value, its kind in the upper byte; what
// a container holds lies between its two words.
class Builder {
  public:
    // `keys` may be null.
    Builder(lua_State* L, const Config& config, const dom::document& document, KeyCache* keys)
        : L(L), config_(config), tape_(document.tape.get() + 1),
          strings_(document.string_buf.get()), keys_(keys) {}

    // Pushes the next value. False when it is nested too deeply.
    bool push(int depth);

  private:
    static constexpr int kind_shift = 56;
    static constexpr uint64_t payload_mask = (uint64_t(1) << kind_shift) - 1;
    static constexpr uint64_t count_mask = 0xffffff;       // a larger count shows as this
    static constexpr int levels_at_once = 8;

    bool push_array(uint64_t word, int depth);
    bool push_object(uint64_t word, int depth);
    // Room for the tables, keys and values of the next levels.
    bool deeper(int depth) {
        if (depth > config_.decode_max_depth) return false;
        return depth % levels_at_once != 1 || lua_checkstack(L, 3 * levels_at_once + 4);
    }
    bool at_end(char kind) const { return char(*tape_ >> kind_shift) == kind; }
    static int count_of(uint64_t word) { return int(word >> 32 & count_mask); }
    std::string_view text_of(uint64_t word) const {
        const uint8_t* at = strings_ + (word & payload_mask);
        uint32_t size;
        std::memcpy(&size, at, sizeof size);
        return {reinterpret_cast<const char*>(at + sizeof size), size};
    }

    lua_State* L;
    const Config& config_;
    const uint64_t* tape_;
    const uint8_t* strings_;
    KeyCache* keys_;
};

bool Builder::push_array(uint64_t word, int depth) {
    if (!deeper(depth)) return false;
    lua_createtable(L, count_of(word), 0);
    if (config_.decode_array_with_array_mt) {
        lua_pushlightuserdata(L, &array_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        lua_setmetatable(L, -2);
    }
    for (int index = 1; !at_end(']'); ++index) {
        if (!push(depth)) return false;
        lua_rawseti(L, -2, index);
    }
    ++tape_;
    return true;
}

bool Builder::push_object(uint64_t word, int depth) {
    if (!deeper(depth)) return false;
    lua_createtable(L, 0, count_of(word));
    while (!at_end('}')) {
        std::string_view key = text_of(*tape_++);
        if (keys_) keys_->push(key);
        else lua_pushlstring(L, key.data(), key.size());
        if (!push(depth)) return false;
        lua_rawset(L, -3);
    }
    ++tape_;
    return true;
}

bool Builder::push(int depth) {
    uint64_t word = *tape_++;
    switch (char(word >> kind_shift)) {
    case '[': return push_array(word, depth + 1);
    case '{': return push_object(word, depth + 1);
    case '"': {
        std::string_view text = text_of(word);
        lua_pushlstring(L, text.data(), text.size());
        return true;
    }
    case 'l': lua_pushnumber(L, double(int64_t(*tape_++))); return true;
    case 'u': lua_pushnumber(L, double(*tape_++)); return true;
    case 'd': {
        double number;
        std::memcpy(&number, tape_++, sizeof number);
        lua_pushnumber(L, number);
        return true;
    }
    case 't': lua_pushboolean(L, 1); return true;
    case 'f': lua_pushboolean(L, 0); return true;
    case 'n': lua_pushlightuserdata(L, nullptr); return true;
    }
    return false;
}

bool build(lua_State* L, const Config& config, const dom::document& document, size_t bytes) {
    if (bytes < KeyCache::document_bytes_min || !lua_checkstack(L, KeyCache::slots + 4))
        return Builder(L, config, document, nullptr).push(0);
    KeyCache keys(L);
    return Builder(L, config, document, &keys).push(0);
}

}  // namespace

void decode(lua_State* L, const Config& config, const char* text, size_t bytes) {
    thread_local dom::parser parser;
    int top = lua_gettop(L);
    dom::element root;
    if (!parser.parse(text, bytes, true).get(root) && build(L, config, parser.doc, bytes)) {
        if (parser.capacity() > kept_bytes_max) parser = dom::parser();
        return;
    }
    lua_settop(L, top);
    decode_leniently(L, config, text, bytes);
}

}  // namespace lua::cjson
