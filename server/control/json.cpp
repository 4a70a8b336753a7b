// One member after the other.
#include "server/control/json.h"

#include "core/text.h"

namespace server {

namespace {

namespace dom = simdjson::dom;

core::Error wrong(std::string_view name, const char* what) {
    return core::Error{"\"" + std::string(name) + "\" must be " + what};
}

core::Error out_of_bounds(const JsonField& field) {
    return wrong(field.name, core::format("between %lld and %lld",
                                          static_cast<long long>(field.least),
                                          static_cast<long long>(field.most)).c_str());
}

core::Result<void> read_ms(const JsonField& field, int64_t& to, dom::element value) {
    double seconds;
    if (value.get(seconds)) return wrong(field.name, "a number of seconds");
    if (!(seconds >= double(field.least)) || seconds > double(field.most)) {
        return out_of_bounds(field);
    }
    to = int64_t(seconds * 1000 + 0.5);
    return {};
}

core::Result<void> read_field(const JsonField& field, dom::element value) {
    if (auto* to = std::get_if<std::string*>(&field.to)) {
        std::string_view text;
        if (value.get(text)) return wrong(field.name, "a text");
        **to = text;
        return {};
    }
    if (auto* to = std::get_if<bool*>(&field.to)) {
        if (value.get(**to)) return wrong(field.name, "true or false");
        return {};
    }
    if (auto* to = std::get_if<JsonField::Ms>(&field.to)) return read_ms(field, *to->to, value);
    int64_t number;
    if (value.get(number)) return wrong(field.name, "a whole number");
    if (number < field.least || number > field.most) return out_of_bounds(field);
    if (auto* to = std::get_if<int*>(&field.to)) **to = int(number);
    else *std::get<int64_t*>(field.to) = number;
    return {};
}

}  // namespace

core::Result<void> read_json(dom::element from, std::initializer_list<JsonField> fields) {
    dom::object members;
    if (from.get(members)) return core::Error{"an object is expected"};
    for (auto [name, value] : members) {
        const JsonField* found = nullptr;
        for (const JsonField& field : fields) {
            if (name == field.name) found = &field;
        }
        if (!found) return core::Error{"\"" + std::string(name) + "\" is not known here"};
        auto read = read_field(*found, value);
        if (!read) return read;
    }
    return {};
}

}  // namespace server
