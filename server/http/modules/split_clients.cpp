// split_clients: a variable whose value is chosen by the hash (MurmurHash2) of a text, in given
// percentages, so that one client always gets the same part.
#include <cstring>
#include <memory>

#include "core/text.h"
#include "server/http/lookup_block.h"
#include "server/http/murmur.h"
#include "server/http/request.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

struct Split {
    struct Part {
        uint64_t hash_end;     // the part takes hashes below this
        ComplexValue value;
    };
    ComplexValue subject;
    std::vector<Part> parts;
    uint64_t hundredths = 0;   // of a percent, given away so far…
    uint64_t hash_end = 0;     // …and what that is in hashes
    bool has_rest = false;
};

struct SplitConf {
    std::vector<std::unique_ptr<Split>> splits;
};

constexpr uint64_t whole = 10000;   // hundredths of a percent

Value get_part(Request& request, Slice, uintptr_t data) {
    const Split& split = *reinterpret_cast<const Split*>(data);
    uint64_t hash = murmur_hash2(split.subject.evaluate(request));
    for (const Split::Part& part : split.parts) {
        if (hash < part.hash_end) return part.value.evaluate(request);
    }
    return Slice("", 0);
}

// "0.5%": hundredths of a percent, at most two decimals.
Result<uint64_t> percentage(Slice text) {
    Error invalid{"invalid percent value \"" + std::string(text) + "\""};
    if (!text.ends_with('%')) return invalid;
    Slice number = text.substr(0, text.size() - 1);
    size_t point = number.find('.');
    Slice decimals = point == Slice::npos ? Slice{} : number.substr(point + 1);
    auto percent = core::parse_number(number.substr(0, point), 100);
    if (!percent || decimals.size() > 2) return invalid;
    uint64_t hundredths = *percent * 100;
    if (!decimals.empty()) {
        auto fraction = core::parse_number(decimals);
        if (!fraction) return invalid;
        hundredths += decimals.size() == 1 ? *fraction * 10 : *fraction;
    }
    if (hundredths == 0) return invalid;
    return hundredths;
}

Result<void> add_part(Split& split, const Line& entry) {
    if (entry.count() != 1) return Error{"invalid number of the split_clients parameters"};
    auto value = ComplexValue::compile(entry.arg(0), entry);
    if (!value) return value.take_error();
    constexpr uint64_t all_hashes = uint64_t(1) << 32;
    if (entry.node.name == "*") {
        split.parts.push_back({all_hashes, std::move(*value)});
        split.has_rest = true;
        return {};
    }
    auto share = percentage(entry.node.name);
    if (!share) return share.take_error();
    split.hundredths += *share;
    if (split.hundredths > whole || split.has_rest) {
        return Error{"percent total is greater than 100%"};
    }
    split.hash_end += 0xffffffffull * *share / whole;
    uint64_t end = split.hundredths == whole ? all_hashes : split.hash_end;
    split.parts.push_back({end, std::move(*value)});
    return {};
}

Result<void> add_split(SplitConf& conf, const Line& line) {
    auto split = std::make_unique<Split>();
    auto name = read_lookup(line, split->subject,
                            [&](const Line& entry) { return add_part(*split, entry); });
    if (!name) return name.take_error();
    auto defined = define_lookup(*name, get_part, split.get());
    if (!defined) return defined;
    conf.splits.push_back(std::move(split));
    return {};
}

constexpr conf::Directive directives[] = {
    {"split_clients", conf::in_http, conf::takes_block(2, 2), conf::call<add_split>},
};

const Module module_split_clients{
    .name = "http_split_clients",
    .conf = conf_of<SplitConf>,
    .directives = directives,
};
REGISTER_MODULE(module_split_clients);

}  // namespace

}  // namespace server
