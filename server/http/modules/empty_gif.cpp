// The empty_gif module: a transparent picture of one pixel, from memory.
#include "server/http/request.h"

namespace server {

namespace {

constexpr core::Slice picture(
    "GIF89a"
    "\x01\x00\x01\x00"          // one pixel by one
    "\x80\x01\x00"              // a palette of two colours, background is the second
    "\x00\x00\x00"              // black
    "\xff\xff\xff"              // white
    "\x21\xf9\x04\x01\x00\x00\x01\x00"          // the second colour is transparent
    "\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00"  // the picture's place
    "\x02\x02\x4c\x01\x00\x3b",                 // its one pixel, the end
    43);

Verdict serve(Request& request) {
    if (request.method != Method::get && request.method != Method::head) {
        return Verdict::reject(405);
    }
    request.body.discard(request);
    request.response.last_modified = 23349600;      // nginx's date: 28 Sep 1970
    return request.respond(200, "image/gif", picture);
}

conf::Result<void> enable(void*, const conf::Line& line) {
    return set_content_handler(line, serve);
}

constexpr conf::Directive directives[] = {
    {"empty_gif", conf::in_location, conf::takes(0), enable},
};

constinit const Module empty_gif{.name = "empty_gif", .directives = directives};
REGISTER_MODULE(empty_gif);

}  // namespace

}  // namespace server
