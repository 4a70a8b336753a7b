// sub_filter: replaces texts in a response, whatever their case, as it passes. A text may begin in
// one piece of the body and end in another.
#include <cstring>

#include "core/text.h"
#include "server/http/file_read.h"
#include "server/http/gzip_accept.h"
#include "server/http/request.h"
#include "server/http/type_set.h"
#include "server/http/variables.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Slice;

struct Pair {
    ComplexValue match;            // constant ones in lower case
    ComplexValue value;
};

struct Conf {
    std::vector<Pair> pairs;
    conf::Setting<TypeSet> types{TypeSet{"text/html"}};
    conf::Setting<bool> once{true};
    conf::Setting<bool> last_modified{false};
};

extern const Module module_sub_filter;

// One text to look for on one request's behalf.
struct Search {
    Slice match;
    const ComplexValue* value = nullptr;
    Slice replacement;             // once it was needed
    bool evaluated = false;
    bool used_up = false;          // sub_filter_once
};

enum class Found : uint8_t { no, yes, maybe };   // maybe: the text ends before it is clear

class Replacer {
  public:
    Replacer(Request& request, const Conf& conf);
    bool empty() const { return count_ == 0; }
    // Looks through `text`, which is followed by more unless it is the `last`.
    void take(Slice text, bool last, core::Chain& out);

  private:
    Found at(const char* from, const char* end, Search*& search) const;
    size_t scan(Slice text, bool last, core::Chain& out);
    void replace(Search& search, core::Chain& out);
    void learn_first_bytes();

    Request& request_;
    const bool once_;
    Search* searches_;
    size_t count_ = 0;
    size_t left_ = 0;              // not used up
    bool begins_[256] = {};        // some text begins with this byte
    std::string held_;             // the end of what came, which may begin a text
};

Replacer::Replacer(Request& request, const Conf& conf) : request_(request), once_(conf.once) {
    searches_ = request.arena.make_array<Search>(conf.pairs.size());
    for (const Pair& pair : conf.pairs) {
        Slice match = pair.match.evaluate(request);
        if (match.empty()) continue;
        if (!pair.match.is_constant()) {
            char* lower = request.arena.bytes(match.size());
            core::lower_into(lower, match);
            match = {lower, match.size()};
        }
        searches_[count_++] = Search{match, &pair.value, {}, false, false};
    }
    left_ = count_;
    learn_first_bytes();
}

void Replacer::learn_first_bytes() {
    std::memset(begins_, 0, sizeof begins_);
    for (size_t i = 0; i < count_; ++i) {
        if (searches_[i].used_up) continue;
        uint8_t first = uint8_t(searches_[i].match[0]);
        begins_[first] = true;
        if (first >= 'a' && first <= 'z') begins_[first - 'a' + 'A'] = true;
    }
}

// Of several texts at one place the one that was given first is taken.
Found Replacer::at(const char* from, const char* end, Search*& search) const {
    for (size_t i = 0; i < count_; ++i) {
        Search& one = searches_[i];
        if (one.used_up) continue;
        size_t there = std::min(size_t(end - from), one.match.size());
        size_t same = 0;
        while (same < there && core::lower(from[same]) == one.match[same]) ++same;
        if (same < there) continue;
        search = &one;
        return there == one.match.size() ? Found::yes : Found::maybe;
    }
    return Found::no;
}

void Replacer::replace(Search& search, core::Chain& out) {
    if (!search.evaluated) {
        search.replacement = search.value->evaluate(request_);
        search.evaluated = true;
    }
    if (!search.replacement.empty()) out.add_copy(search.replacement);
    if (!once_) return;
    search.used_up = true;
    --left_;
    learn_first_bytes();
}

// Returns how much of `text` is dealt with; the rest is to be seen again with what follows.
size_t Replacer::scan(Slice text, bool last, core::Chain& out) {
    const char* end = text.data() + text.size();
    const char* done = text.data();
    const char* at_byte = done;
    while (at_byte < end) {
        if (!begins_[uint8_t(*at_byte)]) {
            ++at_byte;
            continue;
        }
        Search* search = nullptr;
        Found found = at(at_byte, end, search);
        if (found == Found::maybe && !last) break;
        if (found != Found::yes) {
            ++at_byte;
            continue;
        }
        if (at_byte > done) out.add_copy({done, size_t(at_byte - done)});
        at_byte += search->match.size();
        done = at_byte;
        replace(*search, out);
    }
    if (at_byte > done) out.add_copy({done, size_t(at_byte - done)});
    return size_t(at_byte - text.data());
}

void Replacer::take(Slice text, bool last, core::Chain& out) {
    if (held_.empty()) {
        size_t used = scan(text, last, out);
        held_.assign(text.substr(used));
        return;
    }
    held_.append(text);
    size_t used = scan(held_, last, out);
    held_.erase(0, used);
}

Verdict filter_header(Request& request) {
    const Conf& conf = request.conf<Conf>(module_sub_filter);
    Response& response = request.response;
    if (response.content_length == 0 || !conf.types->matches(request)) return Verdict::pass();
    auto* replacer = request.arena.make<Replacer>(request, conf);
    if (replacer->empty()) return Verdict::pass();
    request.set_state(module_sub_filter, replacer);
    request.filter_need_in_memory = true;
    request.want_body(FilterSlot::sub);
    if (request.parent) return Verdict::pass();
    response.content_length = -1;
    response.allow_ranges = false;
    response.headers.remove(HeaderId::accept_ranges);
    if (conf.last_modified) {
        weaken_etag(request);
    } else {
        response.last_modified = -1;
        response.headers.remove(HeaderId::last_modified);
        response.etag = {};
        response.headers.remove(HeaderId::etag);
    }
    return Verdict::pass();
}

Verdict filter_body(Request& request, core::Chain& chain) {
    auto* replacer = request.state<Replacer>(module_sub_filter);
    if (!replacer) return Verdict::pass();
    core::Chain out;
    while (core::Buffer* buffer = chain.pop()) {
        PieceReader reader(request, *buffer);
        for (Slice piece = reader.next(); !piece.empty(); piece = reader.next()) {
            replacer->take(piece, false, out);
        }
        uint8_t marks = buffer->flags & (core::Buffer::last | core::Buffer::flush);
        core::Chain::release(buffer);
        if (reader.failed()) return Verdict::reject(500);
        if (marks & core::Buffer::last) replacer->take({}, true, out);
        if (marks) out.add_mark(marks);
    }
    chain = std::move(out);
    return Verdict::pass();
}

// ---- configuration ----

Result<void> add_pair(Conf& conf, const Line& line) {
    if (line.arg(0).empty()) return conf::Error{"empty search pattern"};
    Pair pair;
    auto match = ComplexValue::compile(line.arg(0), line);
    if (!match) return match.take_error();
    pair.match = std::move(*match);
    if (pair.match.is_constant()) {
        pair.match = ComplexValue(core::to_lower(pair.match.constant()));
    }
    auto value = ComplexValue::compile(line.arg(1), line);
    if (!value) return value.take_error();
    pair.value = std::move(*value);
    conf.pairs.push_back(std::move(pair));
    return {};
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (outer && conf.pairs.empty()) conf.pairs = outer->pairs;
    return {};
}

constexpr conf::Directive directives[] = {
    {"sub_filter", conf::in_any_http, conf::takes(2), conf::call<add_pair>},
    {"sub_filter_types", conf::in_any_http, conf::takes_at_least(1), conf::field<&Conf::types>},
    {"sub_filter_once", conf::in_any_http, conf::takes_flag(), conf::field<&Conf::once>},
    {"sub_filter_last_modified", conf::in_any_http, conf::takes_flag(),
     conf::field<&Conf::last_modified>},
};

constexpr Filter filters[] = {
    {FilterSlot::sub, filter_header, filter_body,
     [](const void* conf) { return !static_cast<const Conf*>(conf)->pairs.empty(); }},
};

constinit const Module module_sub_filter{
    .name = "http_sub_filter",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .filters = filters,
    .has_request_state = true,
};
REGISTER_MODULE(module_sub_filter);

}  // namespace

}  // namespace server
