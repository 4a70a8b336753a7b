// Settings of one cjson instance (cjson.new() makes more), and the two halves of its work. Called
// by lua/cjson/module.cpp.
#pragma once

#include <cstdint>
#include <string>

#include <lua.hpp>

namespace lua::cjson {

enum class InvalidNumbers : int { refused = 0, written = 1, null = 2 };

struct Config {
    int sparse_convert = 0;
    int sparse_ratio = 2;            // 0: any sparse array is all right
    int sparse_safe = 10;            // arrays up to here always are
    int encode_max_depth = 1000;
    int encode_invalid_numbers = 0;  // InvalidNumbers
    int encode_number_precision = 14;
    int encode_keep_buffer = 1;
    int encode_empty_table_as_object = 1;
    int encode_escape_forward_slash = 1;
    int encode_skip_unsupported_value_types = 0;
    std::string encode_indent;
    int decode_invalid_numbers = 1;
    int decode_max_depth = 1000;
    int decode_array_with_array_mt = 0;
    int decode_allow_comment = 0;
};

// Their addresses, as light userdata, are the registry keys of cjson.array_mt and
// cjson.empty_array_mt; that of array_key is also cjson.empty_array.
extern char array_key;
extern char empty_array_key;

// Pushes the JSON text of the value on top of the stack. Raises "Cannot serialise …".
void encode(lua_State* L, const Config& config);

// The text of a plain table on top of the stack (encode_plain.cpp says which are). False: it is
// none, and nothing was written.
class Text;
bool encode_plain(lua_State* L, const Config& config, Text& text);
void learn_to_read_tables(lua_State* L);         // once for each machine, before

// Pushes the value of a JSON text, which a NUL byte follows. Raises "Expected … but found …".
void decode(lua_State* L, const Config& config, const char* text, size_t bytes);
// The same, slower: takes what strict JSON does not allow (settings permitting) and says exactly
// what is wrong with the rest.
void decode_leniently(lua_State* L, const Config& config, const char* text, size_t bytes);

}  // namespace lua::cjson
