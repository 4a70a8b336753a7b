// JsonWriter: JSON text built value by value; commas come by themselves. For answers of control and
// status resources. Whoever calls it keeps begin and end paired and gives each member a key first.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>

#include "core/slice.h"

namespace core {

class JsonWriter {
  public:
    JsonWriter& begin_object() { return open('{'); }
    JsonWriter& end_object() { return close('}'); }
    JsonWriter& begin_array() { return open('['); }
    JsonWriter& end_array() { return close(']'); }
    JsonWriter& key(Slice name);

    // Bytes that are no UTF-8 become U+FFFD, so that the text is always valid JSON.
    JsonWriter& value(Slice text);
    JsonWriter& value(const std::string& text) { return value(Slice(text)); }
    JsonWriter& value(const char* text) { return value(Slice(text)); }
    JsonWriter& value(double number);      // null when it is not finite
    template <std::integral T>
    JsonWriter& value(T number) {
        if constexpr (std::same_as<T, bool>) return put(number ? "true" : "false");
        else if constexpr (std::signed_integral<T>) return put_signed(int64_t(number));
        else return put_unsigned(uint64_t(number));
    }
    JsonWriter& null() { return put("null"); }
    JsonWriter& raw(Slice json) { return put(json); }    // a value that is JSON already

    template <class T>
    JsonWriter& member(Slice name, const T& what) { return key(name).value(what); }

    const std::string& text() const { return text_; }
    std::string take() { return std::move(text_); }

  private:
    JsonWriter& open(char bracket);
    JsonWriter& close(char bracket);
    JsonWriter& put(Slice json);
    JsonWriter& put_signed(int64_t number);
    JsonWriter& put_unsigned(uint64_t number);
    void separate();

    std::string text_;
    bool comma_ = false;                   // something stands before, at this level
};

// `text` with quotation marks, appended to `to`.
void append_json_string(std::string& to, Slice text);
// The length of the UTF-8 sequence that `text` begins with (RFC 3629); 0 when it is none.
size_t utf8_length(Slice text);

}  // namespace core
