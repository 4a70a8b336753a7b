// Messages about places in configuration files: the "in file:line" suffix and the quoted lines.
// Used by the parser and the binder; knows nothing of what directives mean.
#include "conf/tree.h"

#include <algorithm>

namespace conf {

namespace {

constexpr int quoted_lines_max = 3;
constexpr size_t quoted_line_bytes_max = 160;

const std::string* text_of(const Tree& tree, const std::string* file) {
    for (size_t i = 0; i < tree.files.size(); ++i) {
        if (tree.files[i].get() == file) return tree.texts[i].get();
    }
    for (size_t i = 0; i < tree.option_names.size(); ++i) {
        if (tree.option_names[i].get() == file) return tree.option_texts[i].get();
    }
    return nullptr;
}

// The line as it can be shown in a log: no control bytes, not endless.
std::string printable(core::Slice line) {
    while (!line.empty() && uint8_t(line.back()) <= ' ') line.remove_suffix(1);
    bool cut = line.size() > quoted_line_bytes_max;
    std::string result(line.substr(0, quoted_line_bytes_max));
    for (char& c : result) {
        if (uint8_t(c) < ' ' || c == 127) c = c == '\t' ? ' ' : '?';
    }
    return cut ? result + "..." : result;
}

void append_lines(std::string& to, core::Slice text, int first, int last) {
    size_t at = 0;
    for (int line = 1; line <= last && at <= text.size(); ++line) {
        size_t end = std::min(text.find('\n', at), text.size());
        if (line >= first) {
            std::string shown = printable(text.substr(at, end - at));
            if (!shown.empty()) to += "\n    " + std::to_string(line) + " | " + shown;
        }
        at = end + 1;
    }
}

// Whether a line of `text` ends with `suffix` and a line number.
bool has_suffix_line(const std::string& text, const std::string& suffix) {
    for (size_t at = text.find(suffix); at != std::string::npos; at = text.find(suffix, at + 1)) {
        size_t end = text.find_first_not_of("0123456789", at + suffix.size());
        if (end == std::string::npos || text[end] == '\n') return true;
    }
    return false;
}

}  // namespace

std::string place_suffix(const Place& place) {
    if (!place.file) return {};
    if (place.line == 0) return " in " + *place.file;
    return " in " + *place.file + ":" + std::to_string(place.line);
}

std::string located(const Tree& tree, const Place& place, const std::string& text) {
    std::string result = text + place_suffix(place);
    const std::string* source = place.file ? text_of(tree, place.file) : nullptr;
    if (!source) return result;
    int last = std::max(place.line, 1);
    int first = place.first_line > 0 && place.first_line < last ? place.first_line : last;
    if (last - first >= quoted_lines_max) last = first + quoted_lines_max - 1;
    append_lines(result, *source, first, last);
    return result;
}

bool is_located(const Tree& tree, const std::string& text) {
    for (const auto& file : tree.files) {
        if (has_suffix_line(text, " in " + *file + ":")) return true;
    }
    for (const auto& name : tree.option_names) {
        if (has_suffix_line(text, " in " + *name)) return true;
    }
    return false;
}

}  // namespace conf
