// The head gate of HTTP/1: finds the end of a request head in what has arrived, checks it and takes
// it apart once it is whole. llhttp (strict) parses the header block and decides framing; the gate
// owns the request line and refuses what llhttp lets through (folded lines, bare LF inside a CRLF
// head, empty names, doubtful Transfer-Encoding, hosts that are none, …).
//
// Because a head is looked at only when it is whole, the outcome cannot depend on how it was split
// over reads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/slice.h"
#include "server/http/head_memo.h"

struct llhttp__internal_s;

namespace server {

class Request;

// How much may stand in a head, in bytes.
struct HeadLimits {
    size_t line_max;       // the request line, or one field line
    size_t total_max;      // the whole head, blank lines before it included
};

// Looks for the end of a head. Kept between reads so that no byte is looked at twice.
class HeadScan {
  public:
    enum class Result : uint8_t { incomplete, complete, bad };

    // `bytes`: all that has arrived of this head, from its first byte. `likely`: a block that
    // may stand in it, or null; where it does, its lines are not looked at one by one.
    Result scan(core::Slice bytes, const HeadLimits& limits,
                const HeadMemo::Entry* likely = nullptr);

    size_t start() const { return start_; }        // where the request line begins
    size_t line_end() const { return line_end_; }  // end of the request line, without line end
    size_t block() const { return block_; }        // where the header block begins
    size_t end() const { return at_; }             // behind the blank line
    bool lf_only() const { return lf_only_; }      // every line ends in a bare LF
    int status() const { return status_; }         // why it is bad: 400, 414, 494
    const char* why() const { return why_; }
    bool line_seen() const { return line_seen_; }
    bool known() const { return known_; }          // the likely block was there

  private:
    bool take_known(core::Slice bytes, const HeadLimits& limits, const HeadMemo::Entry* likely);
    Result bad(int status, const char* why);
    Result line_length(size_t length, const HeadLimits& limits);
    Result first_bytes(core::Slice bytes);

    uint32_t at_ = 0;          // everything before it has been looked at, a line boundary
    uint32_t searched_ = 0;    // no '\n' in [at_, searched_)
    uint32_t start_ = 0, line_end_ = 0, block_ = 0;
    bool line_seen_ = false, lf_only_ = false, known_ = false;
    uint16_t status_ = 0;
    const char* why_ = nullptr;
};

// Why a head was refused.
struct HeadError {
    int status = 0;            // 0: it was not
    const char* why = nullptr; // nginx's log text: "client sent invalid request line"
};

// A name of letters, digits and hyphens (and underscores when the server takes them). Others are
// tokens to the RFC but not to what stands behind us: dropped or refused.
bool is_plain_name(core::Slice name, bool underscores);

// Takes a whole head apart into `request` (its head, method, headers, version, body framing).
// `bytes` must live as long as the request. For a chunked body `*parser` becomes a decoder, in the
// request's arena, that stands behind the head; else it stays null. `*known` is the likely block
// that the scan was given, and becomes the remembered one that the head ended with, if it did.
HeadError parse_head(Request& request, core::Slice bytes, const HeadScan& scan,
                     llhttp__internal_s** parser, const HeadMemo::Entry** known);

// What a run through the chunk decoder found.
struct ChunkResult {
    size_t used = 0;           // bytes consumed
    bool complete = false;
    int status = 0;            // 400 or 413 when the framing is broken
};
// Decodes chunked framing; body bytes go to request.body.receive(), trailers to request.trailers.
ChunkResult decode_chunks(Request& request, llhttp__internal_s* parser, core::Slice bytes);

}  // namespace server
