// Asking an OCSP responder: resolve, connect, one GET, read to the end; then the next address.
#include "server/http/ocsp_request.h"

#include <algorithm>
#include <cerrno>

#include "core/arena.h"
#include "core/base64.h"
#include "core/text.h"
#include "server/http/escape.h"
#include "server/http/headers.h"
#include "server/upstream/response_parser.h"

namespace server {

namespace {

constexpr int64_t step_timeout_ms = 60000;       // of connecting and sending, then of each read
constexpr size_t answer_bytes_max = 64 * 1024;
constexpr core::Slice answer_type = "application/ocsp-response";

// The question goes into the path, as RFC 6960 A.1.1 has it.
std::string request_text(const OcspResponder& responder, core::Slice question) {
    core::Arena arena;
    core::Slice encoded =
        escape(arena, core::encode_base64(arena, question), Escape::uri_component);
    std::string text = "GET " + responder.uri;
    if (!text.ends_with('/')) text += '/';
    text.append(encoded).append(" HTTP/1.0\r\nHost: ").append(responder.host).append("\r\n\r\n");
    return text;
}

}  // namespace

core::Result<OcspResponder> OcspResponder::parse(core::Slice url) {
    constexpr core::Slice scheme = "http://";
    auto wrong = [&](const std::string& what) {
        return core::Error{what + " in OCSP responder \"" + std::string(url) + "\""};
    };
    if (url.size() <= scheme.size() || !core::istarts_with(url, scheme)) {
        return wrong("invalid URL prefix");
    }
    url.remove_prefix(scheme.size());
    // It becomes part of a request's head, and may come out of a client's certificate.
    if (std::any_of(url.begin(), url.end(), [](char c) { return c <= ' ' || c == 0x7f; })) {
        return wrong("invalid URL");
    }
    size_t end = std::min(url.find_first_of("/?"), url.size());
    auto named = core::parse_host_port(url.substr(0, end));
    if (!named) return wrong(named.error().what);
    if (named->host.empty() || named->is_unix) return wrong("no host");
    OcspResponder responder;
    responder.host = named->host;
    if (named->port) responder.port = named->port;
    core::Slice uri = url.substr(end);
    if (!uri.empty()) responder.uri = uri.starts_with('/') ? std::string(uri) : "/";
    return responder;
}

OcspRequest::OcspRequest(OcspResponder responder, std::string question, std::string certificate,
                         const core::LogContext& log, Done done)
    : responder_(std::move(responder)),
      question_(request_text(responder_, question)),
      certificate_(std::move(certificate)),
      log_(log),
      done_(std::move(done)),
      timer_(
          [](void* self) {
              auto& it = *static_cast<OcspRequest*>(self);
              LOG(it.log_, error, ETIMEDOUT, "OCSP responder timed out");
              it.next();
          },
          this),
      ended_(
          [](void* self) {
              auto& it = *static_cast<OcspRequest*>(self);
              Done done = std::move(it.done_);
              done(it.good_ ? &it.answer_ : nullptr);   // may destroy it
          },
          this) {
    log_.action = "requesting certificate status";
    log_.describe = describe;
    log_.subject = this;
}

OcspRequest::~OcspRequest() { hang_up(); }

void OcspRequest::describe(const void* self, core::LogLine& line) {
    const auto& it = *static_cast<const OcspRequest*>(self);
    line.append(", responder: ");
    line.append_escaped(it.responder_.host);
    if (!it.peer_.empty()) {
        line.append(", peer: ");
        line.append(it.peer_);
    }
    if (!it.certificate_.empty()) {
        line.append(", certificate: \"");
        line.append_escaped(it.certificate_);
        line.append("\"");
    }
}

void OcspRequest::start(const OcspResolving& resolving) {
    core::Address literal;
    if (core::Address::parse_ip(responder_.host, literal)) {
        literal.set_port(responder_.port);
        addresses_.push_back(literal);
        return next();
    }
    query_ = resolving.resolver->resolve(
        responder_.host, [this](const core::Resolution& found) { resolved(found); },
        core::ResolveKind::addresses, resolving.timeout_ms);
}

void OcspRequest::resolved(const core::Resolution& found) {
    if (!found.ok()) LOG(log_, error, 0, "%s", found.error_text().c_str());
    for (core::Address address : found.addresses) {
        address.set_port(responder_.port);
        addresses_.push_back(address);
    }
    next();
}

// The next address, as long as there is one.
void OcspRequest::next() {
    hang_up();
    connected_ = false;
    sent_ = 0;
    answer_.clear();
    if (next_address_ == addresses_.size()) return end(false);
    connect();
}

void OcspRequest::connect() {
    const core::Address& address = addresses_[next_address_++];
    peer_ = address.text();
    auto fd = core::connect_to(address);
    if (!fd) {
        LOG(log_, error, errno, "connect() failed");
        return next();
    }
    stream_ = core::Stream(std::move(*fd));
    if (auto watched = watch_.start(stream_.fd(), *this); !watched) {
        LOG(log_, alert, 0, "%s", watched.error().what.c_str());
        return end(false);
    }
    timer_.set(step_timeout_ms);
}

void OcspRequest::on_io(uint8_t) {
    if (over_) return;
    if (!connected_) {
        if (int error = core::socket_error(stream_.fd())) {
            LOG(log_, error, error, "connect() failed");
            return next();
        }
        connected_ = true;
    }
    if (sent_ < question_.size()) send();
    if (!over_ && connected_) receive();
}

void OcspRequest::send() {
    while (sent_ < question_.size()) {
        core::IoResult step = stream_.write(core::Slice(question_).substr(sent_));
        if (step.status == core::Io::again) return;
        if (step.status != core::Io::done) {
            LOG(log_, error, step.error, "send() failed");
            return next();
        }
        sent_ += size_t(step.bytes);
    }
}

void OcspRequest::receive() {
    char room[4096];
    for (;;) {
        core::IoResult got = stream_.read(room, sizeof room);
        if (got.status == core::Io::again) return;
        if (got.status == core::Io::failed) {
            LOG(log_, error, got.error, "recv() failed");
            return next();
        }
        bool ended = got.status == core::Io::closed;
        if (!ended) {
            timer_.set(step_timeout_ms);
            answer_.append(room, size_t(got.bytes));
        }
        if (judge(ended)) return;
    }
}

// Is there a whole answer, or no hope for one? Then this address is done with.
bool OcspRequest::judge(bool ended) {
    core::Arena arena;
    HeaderList fields(arena);
    ResponseHead head;
    size_t searched = 0;
    auto refuse = [&](const char* why) {
        LOG(log_, error, 0, "OCSP responder %s", why);
        next();
        return true;
    };
    core::Slice text(answer_);
    if (answer_.size() > answer_bytes_max) return refuse("sent too large response");
    if (!text.empty() && !may_be_response(text)) return refuse("sent invalid response");
    size_t end_of_head = find_head_end(text, searched);
    if (end_of_head == 0) return ended && refuse("prematurely closed connection");
    if (parse_response_head(text.substr(0, end_of_head), head, fields) || head.chunked) {
        return refuse("sent invalid response");
    }
    if (head.status != 200) {
        LOG(log_, error, 0, "OCSP responder answered with status %d", head.status);
        next();
        return true;
    }
    core::Slice type = fields.value(HeaderId::content_type);
    if (fields.has(HeaderId::content_type) && !core::iequals(type, answer_type)) {
        LOG(log_, error, 0, "OCSP responder sent invalid \"Content-Type\" header: \"%.*s\"",
            int(type.size()), type.data());
        next();
        return true;
    }
    int64_t body_bytes = int64_t(text.size() - end_of_head);
    bool whole = head.content_length >= 0 && body_bytes >= head.content_length;
    if (!whole && !ended) return false;
    if (!whole && head.content_length >= 0) return refuse("prematurely closed connection");
    if (whole) answer_.resize(end_of_head + size_t(head.content_length));
    answer_.erase(0, end_of_head);
    end(true);
    return true;
}

void OcspRequest::end(bool good) {
    if (over_) return;
    over_ = true;
    good_ = good;
    hang_up();
    core::Reactor::current().at_end(core::Reactor::work, ended_);
}

void OcspRequest::hang_up() {
    timer_.cancel();
    if (watch_.active()) watch_.stop_closing();
    stream_.close();
}

}  // namespace server
