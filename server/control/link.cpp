// Frames: a length, a kind, the transaction's number, a text. Both ends are the same program.
#include "server/control/link.h"

#include <cstring>

#include "core/log.h"

namespace server {

namespace {

constexpr size_t head_bytes = sizeof(uint32_t) + 1 + sizeof(uint64_t);
constexpr size_t text_bytes_max = 256 << 20;
// Memory beyond this is given back when it has served.
constexpr size_t kept_bytes = 64 * 1024;

template <class T>
void put(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& to, core::Slice text) {
    put(to, uint32_t(text.size()));
    to += text;
}

template <class T>
bool get(core::Slice& from, T& value) {
    if (from.size() < sizeof value) return false;
    std::memcpy(&value, from.data(), sizeof value);
    from.remove_prefix(sizeof value);
    return true;
}

bool get_text(core::Slice& from, std::string& text) {
    uint32_t size;
    if (!get(from, size) || from.size() < size) return false;
    text.assign(from.data(), size);
    from.remove_prefix(size);
    return true;
}

void shrink(std::string& text) {
    if (text.empty() && text.capacity() > kept_bytes) std::string().swap(text);
}

}  // namespace

std::string encode_frame(const Frame& frame) {
    std::string to;
    to.reserve(head_bytes + frame.text.size());
    put(to, uint32_t(frame.text.size()));
    put(to, uint8_t(frame.kind));
    put(to, frame.id);
    to += frame.text;
    return to;
}

bool take_frame(std::string& bytes, Frame& frame, bool& broken) {
    core::Slice from = bytes;
    uint32_t size;
    uint8_t kind;
    if (!get(from, size) || !get(from, kind) || !get(from, frame.id)) return false;
    broken = size > text_bytes_max || kind < uint8_t(FrameKind::prepare) ||
             kind > uint8_t(FrameKind::committed);
    if (broken || from.size() < size) return false;
    frame.kind = FrameKind(kind);
    frame.text.assign(from.data(), size);
    bytes.erase(0, head_bytes + size);
    return true;
}

std::string encode_items(const std::vector<ControlItem>& items) {
    std::string to;
    for (const ControlItem& item : items) {
        put_text(to, item.resource);
        put_text(to, item.key);
        put(to, uint8_t(item.value.has_value()));
        if (item.value) put_text(to, *item.value);
    }
    return to;
}

bool decode_items(core::Slice text, std::vector<ControlItem>& items) {
    while (!text.empty()) {
        ControlItem item;
        uint8_t has;
        if (!get_text(text, item.resource) || !get_text(text, item.key) || !get(text, has)) {
            return false;
        }
        if (has && !get_text(text, item.value.emplace())) return false;
        items.push_back(std::move(item));
    }
    return true;
}

ControlLink::ControlLink(core::Fd fd, Received received, Closed closed)
    : stream_(std::move(fd)), received_(std::move(received)), closed_(std::move(closed)) {}

core::Result<void> ControlLink::start() { return watch_.start(stream_.fd(), *this); }

void ControlLink::forget() { stream_.close(); }

void ControlLink::send(const Frame& frame) {
    if (ended_) return;
    out_ += encode_frame(frame);
    write();
}

void ControlLink::on_io(uint8_t ready) {
    if (ready & core::ready_write) write();
    if (!ended_ && (ready & core::ready_read)) read();
}

void ControlLink::write() {
    while (sent_ < out_.size()) {
        core::IoResult result = stream_.write(core::Slice(out_).substr(sent_));
        sent_ += size_t(result.bytes);
        if (result.status == core::Io::again) return;
        if (result.status != core::Io::done) return end();
    }
    out_.clear();
    sent_ = 0;
    shrink(out_);
}

void ControlLink::read() {
    char room[16 * 1024];
    for (;;) {
        core::IoResult result = stream_.read(room, sizeof room);
        if (result.status == core::Io::again) break;
        if (result.status != core::Io::done) return end();
        in_.append(room, size_t(result.bytes));
    }
    Frame frame;
    bool broken = false;
    while (!ended_ && take_frame(in_, frame, broken)) received_(std::move(frame));
    if (broken) end();
    shrink(in_);
}

void ControlLink::end() {
    if (ended_) return;
    ended_ = true;
    watch_.stop_closing();
    stream_.close();
    closed_();
}

}  // namespace server
