// Takes the mark of variable arguments off a chunk: in its bytecode, written by string.dump's own
// function and read back. The form (LuaJIT's lj_bcdump.h): a header, then the functions, each
// behind its length, the chunk's last; numbers are ULEB128.
#include "lua/fixed_arguments.h"

#include <cstdint>
#include <string>

namespace lua {
namespace {

constexpr uint8_t form_version = 2;
constexpr uint8_t stripped = 0x02;           // header flag: no names and lines
constexpr uint8_t variable_arguments = 0x02; // function flag
constexpr size_t instruction_bytes = 4;

// Reads what LuaJIT wrote; ok() is false from the first byte that is missing.
class Reader {
  public:
    explicit Reader(const std::string& text) : text_(text) {}
    bool ok() const { return ok_; }
    size_t at() const { return at_; }
    uint8_t byte() {
        if (at_ < text_.size()) return uint8_t(text_[at_++]);
        ok_ = false;
        return 0;
    }
    size_t number() {
        size_t value = 0;
        for (int shift = 0; shift < 35; shift += 7) {
            uint8_t part = byte();
            value |= size_t(part & 0x7f) << shift;
            if (!(part & 0x80)) return value;
        }
        ok_ = false;
        return 0;
    }
    void skip(size_t bytes) {
        if (bytes > text_.size() - at_) ok_ = false;
        else at_ += bytes;
    }

  private:
    const std::string& text_;
    size_t at_ = 0;
    bool ok_ = true;
};

// Where a chunk's own function is in its bytecode.
struct Function {
    size_t flags_at = 0;
    size_t code_at = 0;
    size_t instructions = 0;
    explicit operator bool() const { return code_at != 0; }
};

Function main_function(const std::string& text) {
    Reader reader(text);
    if (reader.byte() != 0x1b || reader.byte() != 'L' || reader.byte() != 'J' ||
        reader.byte() != form_version) return {};
    size_t header_flags = reader.number();
    if (header_flags & stripped) return {};
    reader.skip(reader.number());
    size_t last = 0;
    while (size_t bytes = reader.number()) {
        last = reader.at();
        reader.skip(bytes);
        if (!reader.ok()) return {};
    }
    Reader body(text);
    Function found;
    body.skip(last);
    found.flags_at = body.at();
    body.skip(4);                            // flags, parameters, frame size, upvalues
    body.number();                           // constants that are objects
    body.number();                           // …and numbers
    found.instructions = body.number();
    if (body.number()) {                     // bytes of line information
        body.number();
        body.number();
    }
    found.code_at = body.at();
    body.skip(found.instructions * instruction_bytes);
    return last && reader.ok() && body.ok() ? found : Function{};
}

std::string dump(lua_State* L) {
    std::string text;
    auto write = [](lua_State*, const void* part, size_t bytes, void* to) {
        static_cast<std::string*>(to)->append(static_cast<const char*>(part), bytes);
        return 0;
    };
    if (lua_dump(L, write, &text) != 0) text.clear();
    return text;
}

// The operation that fetches `...`, as this LuaJIT numbers it: `return ...` begins with it.
uint8_t fetching_operation(lua_State* L) {
    static uint8_t known = 0;
    if (known) return known;
    if (luaL_loadstring(L, "return ...") == 0) {
        std::string text = dump(L);
        Function function = main_function(text);
        if (function) known = uint8_t(text[function.code_at]);
    }
    lua_pop(L, 1);
    return known;
}

bool uses_arguments(const std::string& text, const Function& function, uint8_t operation) {
    for (size_t n = 0; n < function.instructions; n++) {
        if (uint8_t(text[function.code_at + n * instruction_bytes]) == operation) return true;
    }
    return false;
}

}  // namespace

void fix_arguments(lua_State* L) {
    uint8_t operation = fetching_operation(L);
    std::string text = dump(L);
    Function function = main_function(text);
    if (!operation || !function || !(text[function.flags_at] & variable_arguments) ||
        uses_arguments(text, function, operation)) return;
    text[function.flags_at] &= char(~variable_arguments);
    if (luaL_loadbuffer(L, text.data(), text.size(), "=chunk") == 0) lua_remove(L, -2);
    else lua_pop(L, 1);
}

}  // namespace lua
