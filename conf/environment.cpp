// Announced environment variables and their replacement in words.
#include "conf/environment.h"

#include <cctype>
#include <cstring>
#include <optional>

extern char** environ;

namespace conf {

namespace {

std::optional<std::vector<std::string>> remembered;

const char* original(const std::string& name) {
    Environment::remember();
    for (const std::string& entry : *remembered) {
        if (entry.size() > name.size() && entry[name.size()] == '=' && entry.starts_with(name)) {
            return entry.c_str() + name.size() + 1;
        }
    }
    return nullptr;
}

bool is_name(core::Slice text) {
    if (text.empty() || std::isdigit(uint8_t(text[0]))) return false;
    for (char c : text) {
        if (!std::isalnum(uint8_t(c)) && c != '_') return false;
    }
    return true;
}

}  // namespace

void Environment::remember() {
    if (remembered) return;
    remembered.emplace();
    for (char** entry = environ; entry && *entry; ++entry) remembered->emplace_back(*entry);
}

core::Result<void> Environment::declare(const std::vector<std::string>& arguments) {
    if (arguments.empty() || arguments.size() > 2) {
        return core::Error{"invalid number of arguments in \"environment\" directive"};
    }
    const std::string& name = arguments[0];
    if (!is_name(name)) return core::Error{"invalid environment variable name \"" + name + "\""};
    if (find(name)) return core::Error{"duplicate environment variable \"" + name + "\""};
    const char* value = original(name);
    if (!value && arguments.size() < 2) {
        return core::Error{"environment variable \"" + name + "\" is not set and has no default"};
    }
    std::string text = value ? value : arguments[1];
    // Many directives look for variables in their words.
    if (text.find('$') != std::string::npos) {
        return core::Error{"the value of environment variable \"" + name +
                           "\" contains \"$\", which would be taken for a variable"};
    }
    values_.emplace_back(name, std::move(text));
    return {};
}

const std::string* Environment::find(core::Slice name) const {
    for (const auto& [known, value] : values_) {
        if (core::Slice(known) == name) return &value;
    }
    return nullptr;
}

void Environment::fill_in(std::string& word) const {
    std::string filled;
    size_t done = 0;
    for (size_t at = 0; (at = word.find("${", at)) != std::string::npos;) {
        size_t end = word.find('}', at);
        if (end == std::string::npos) break;
        const std::string* value = find(core::Slice(word).substr(at + 2, end - at - 2));
        if (value) {
            filled.append(word, done, at - done).append(*value);
            done = end + 1;
        }
        at = value ? end + 1 : at + 2;
    }
    if (done == 0) return;
    word = filled.append(word, done);
}

}  // namespace conf
