// The last body filter: reads files into memory where the kernel is not to send them by itself
// (sendfile off), where the loop must not wait for the disk (aio), or where the page cache is to be
// left alone (directio). Locations with none of these do not have it.
#pragma once

#include "core/buffer.h"
#include "server/verdict.h"

namespace server {

class Configuration;
class Request;

bool reads_files(const void* core_conf);
Verdict want_file_reading(Request& request);                  // its header half
Verdict read_files(Request& request, core::Chain& chain);     // its body half

// Sends [0, bytes) of a file, read by aio's threads, through filters that want to see it: for a
// content handler, after the head. suspended.
Verdict feed_file(Request& request, core::OpenFile& file, int64_t bytes);
// Is that what the request's location and filters ask for?
bool wants_feeding(const Request& request);

}  // namespace server
