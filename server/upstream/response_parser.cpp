// llhttp's callbacks for responses. Pieces of names and values are put together here, because a
// field may be split over reads.
#include "server/upstream/response_parser.h"

#include <llhttp.h>

#include "core/text.h"

namespace server {

namespace {
constexpr int interim_max = 100;   // answers before the final one (100, 103); more are abuse
}

struct ResponseCallbacks {
    static ResponseParser& of(llhttp_t* parser) {
        return *static_cast<ResponseParser*>(parser->data);
    }

    static int on_begin(llhttp_t* parser) {
        ResponseParser& it = of(parser);
        it.reason_.clear();
        it.name_.clear();
        it.value_.clear();
        it.interim_ = false;
        return 0;
    }

    static int count(ResponseParser& it, size_t bytes) {
        it.head_bytes_ += bytes;
        it.head_too_big_ = it.head_bytes_ > it.head_bytes_max_;
        return it.head_too_big_ ? -1 : 0;
    }

    static int on_status(llhttp_t* parser, const char* at, size_t size) {
        of(parser).reason_.append(at, size);
        return count(of(parser), size);
    }

    static int on_field(llhttp_t* parser, const char* at, size_t size) {
        of(parser).name_.append(at, size);
        return count(of(parser), size);
    }

    static int on_value(llhttp_t* parser, const char* at, size_t size) {
        of(parser).value_.append(at, size);
        return count(of(parser), size);
    }

    static int on_value_complete(llhttp_t* parser) {
        ResponseParser& it = of(parser);
        bool interim = parser->status_code >= 100 && parser->status_code < 200;
        if (it.name_.empty()) return -1;
        if (it.state_ == ResponseParser::State::head && !interim) {
            it.receiver_.on_response_field(it.name_, core::trim(it.value_));
        }
        it.name_.clear();
        it.value_.clear();
        return 0;
    }

    // 0: a body as the fields say; 1: none.
    static int on_head(llhttp_t* parser) {
        ResponseParser& it = of(parser);
        int status = parser->status_code;
        if (status >= 100 && status < 200 && status != 101) {
            it.interim_ = true;
            return ++it.interim_count_ > interim_max ? -1 : 1;
        }
        if (!it.receiver_.on_response_head(status, it.reason_)) return -1;
        it.state_ = ResponseParser::State::body;
        it.keep_alive_ = llhttp_should_keep_alive(parser) != 0;
        return it.head_request_ ? 1 : 0;
    }

    static int on_body(llhttp_t* parser, const char* at, size_t size) {
        of(parser).receiver_.on_response_body({at, size});
        return 0;
    }

    static int on_complete(llhttp_t* parser) {
        ResponseParser& it = of(parser);
        if (it.interim_) return 0;
        it.state_ = ResponseParser::State::complete;
        return HPE_PAUSED;
    }

    static const llhttp_settings_t& settings() {
        static const llhttp_settings_t made = [] {
            llhttp_settings_t all;
            llhttp_settings_init(&all);
            all.on_message_begin = on_begin;
            all.on_status = on_status;
            all.on_header_field = on_field;
            all.on_header_value = on_value;
            all.on_header_value_complete = on_value_complete;
            all.on_headers_complete = on_head;
            all.on_body = on_body;
            all.on_message_complete = on_complete;
            return all;
        }();
        return made;
    }
};

ResponseParser::ResponseParser(Receiver& receiver, bool head_request, size_t head_bytes_max)
    : receiver_(receiver),
      parser_(std::make_unique<llhttp_t>()),
      head_request_(head_request),
      head_bytes_max_(head_bytes_max) {
    llhttp_init(parser_.get(), HTTP_RESPONSE, &ResponseCallbacks::settings());
    parser_->data = this;
}

ResponseParser::~ResponseParser() = default;

ResponseParser::State ResponseParser::feed(core::Slice bytes) {
    if (state_ == State::complete || state_ == State::bad) return state_;
    llhttp_errno_t error = llhttp_execute(parser_.get(), bytes.data(), bytes.size());
    if (error != HPE_OK && state_ != State::complete) state_ = State::bad;
    return state_;
}

ResponseParser::State ResponseParser::finish() {
    if (state_ == State::complete || state_ == State::bad) return state_;
    llhttp_errno_t error = llhttp_finish(parser_.get());
    if (state_ != State::complete || (error != HPE_OK && error != HPE_PAUSED)) state_ = State::bad;
    return state_;
}

}  // namespace server
