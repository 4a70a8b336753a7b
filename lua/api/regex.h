// The layouts of ngx.re's objects as upstream's Lua code declares them.
#pragma once

#include "lua/api/ffi.h"

extern "C" {

typedef struct {
    ngx_str_t value;
    void* lengths;
    void* values;
} ngx_http_lua_complex_value_t;

typedef struct {
    void* pool;
    unsigned char* name_table;
    int name_count;
    int name_entry_size;

    int ncaptures;
    int* captures;

    void* regex;
    void* regex_sd;

    ngx_http_lua_complex_value_t* replace;

    const char* pattern;
} ngx_http_lua_regex_t;

// The groups of one match, for filling in a replacement template.
struct ngx_http_lua_script_engine_s {
    const unsigned char* subject;
    const int* captures;
    int count;
};
typedef struct ngx_http_lua_script_engine_s* ngx_http_lua_script_engine_t;

}
