// llhttp's callbacks collect one request; the limits are checked as bytes come in.
#include "server/control/http_reader.h"

#include <llhttp.h>

#include "core/text.h"

namespace server {

struct ControlHttp::Parser {
    llhttp_t parser;
    llhttp_settings_t settings;
    ControlRequest request;
    std::string field, value;
    size_t head_bytes = 0;
    bool in_body = false, complete = false, said_continue = false;
    int status = 0;
    const char* reason = nullptr;

    int refuse(int code, const char* why) {
        status = code;
        reason = why;
        return -1;
    }
    int add_head(std::string& to, const char* at, size_t size) {
        head_bytes += size;
        if (head_bytes > head_bytes_max) return refuse(431, "the head of the request is too large");
        to.append(at, size);
        return 0;
    }
};

bool ControlRequest::flag(core::Slice name) const {
    core::Slice rest = query;
    while (!rest.empty()) {
        core::Slice pair = rest.substr(0, rest.find('&'));
        rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
        core::Slice key = pair.substr(0, pair.find('='));
        if (key != name) continue;
        core::Slice value = pair.substr(std::min(pair.size(), key.size() + 1));
        return value != "0" && value != "false";
    }
    return false;
}

ControlHttp::ControlHttp() : parser_(std::make_unique<Parser>()) {
    static constexpr auto self = [](llhttp_t* parser) -> Parser& {
        return *static_cast<Parser*>(parser->data);
    };
    llhttp_settings_init(&parser_->settings);
    llhttp_settings_t& on = parser_->settings;
    on.on_url = [](llhttp_t* parser, const char* at, size_t size) {
        return self(parser).add_head(self(parser).request.target, at, size);
    };
    on.on_header_field = [](llhttp_t* parser, const char* at, size_t size) {
        return self(parser).add_head(self(parser).field, at, size);
    };
    on.on_header_value = [](llhttp_t* parser, const char* at, size_t size) {
        return self(parser).add_head(self(parser).value, at, size);
    };
    on.on_header_value_complete = [](llhttp_t* parser) {
        Parser& it = self(parser);
        ControlRequest& request = it.request;
        if (core::iequals(it.field, "If-Match")) request.if_match = it.value;
        if (core::iequals(it.field, "Authorization")) request.authorization = it.value;
        if (core::iequals(it.field, "Expect") && core::iequals(it.value, "100-continue")) {
            request.expects_continue = true;
        }
        it.field.clear();
        it.value.clear();
        return 0;
    };
    on.on_headers_complete = [](llhttp_t* parser) {
        Parser& it = self(parser);
        it.in_body = true;
        bool too_large = (parser->flags & F_CONTENT_LENGTH) &&
                         parser->content_length > body_bytes_max;
        return too_large ? it.refuse(413, "the body of the request is too large") : 0;
    };
    on.on_body = [](llhttp_t* parser, const char* at, size_t size) {
        Parser& it = self(parser);
        if (it.request.body.size() + size > body_bytes_max) {
            return it.refuse(413, "the body of the request is too large");
        }
        it.request.body.append(at, size);
        return 0;
    };
    on.on_message_complete = [](llhttp_t* parser) -> int {
        self(parser).complete = true;
        return HPE_PAUSED;
    };
    llhttp_init(&parser_->parser, HTTP_REQUEST, &parser_->settings);
    parser_->parser.data = parser_.get();
}

ControlHttp::~ControlHttp() = default;

ControlRequest& ControlHttp::request() { return parser_->request; }
bool ControlHttp::has_head() const { return parser_->in_body; }
size_t ControlHttp::body_bytes() const { return parser_->request.body.size(); }
int ControlHttp::status() const { return parser_->status; }
const char* ControlHttp::reason() const { return parser_->reason; }

ControlHttp::State ControlHttp::feed(std::string& bytes) {
    Parser& it = *parser_;
    if (it.status) return State::refused;
    const char* from = bytes.data();
    llhttp_errno_t outcome = llhttp_execute(&it.parser, from, bytes.size());
    if (outcome != HPE_OK && outcome != HPE_PAUSED) {
        if (!it.status) it.refuse(400, "this is no HTTP request");
        return State::refused;
    }
    size_t used = bytes.size();
    if (outcome == HPE_PAUSED) used = size_t(llhttp_get_error_pos(&it.parser) - from);
    bytes.erase(0, used);
    if (!it.complete) {
        bool ask = it.in_body && it.request.expects_continue && !it.said_continue;
        it.said_continue |= ask;
        return ask ? State::wants_continue : State::more;
    }
    ControlRequest& request = it.request;
    request.method = llhttp_method_name(llhttp_method_t(it.parser.method));
    request.keep_alive = llhttp_should_keep_alive(&it.parser);
    size_t question = request.target.find('?');
    request.path = request.target.substr(0, question);
    if (question != std::string::npos) request.query = request.target.substr(question + 1);
    return State::complete;
}

void ControlHttp::next() {
    Parser& it = *parser_;
    it.request = {};
    it.head_bytes = 0;
    it.in_body = it.complete = it.said_continue = false;
    llhttp_resume(&it.parser);
}

}  // namespace server
