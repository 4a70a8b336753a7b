// `resty-server ctl …`: a client of the control socket for people and scripts. control.md lists the
// commands. Called by main; knows nothing of the server's insides but the paths it asks.
#pragma once

#include <string>

namespace server {

// The exit status: 0 done, 1 refused, 2 the command is wrong, 3 nobody answers, 4 a conflict or a
// stale version, 5 the server failed.
int run_control_client(int argc, char** argv);

// ---- its parts ----

// Where to ask.
struct ControlTarget {
    std::string socket;                    // a path; else
    std::string host;                      // HOST:PORT with a token
    std::string token;
    int timeout_s = 60;
};

struct ControlReply {
    int status = 0;                        // 0: nobody answered
    std::string body;                      // JSON, or what went wrong
};

// client_http.cpp
ControlReply ask_control(const ControlTarget& target, const std::string& method,
                         const std::string& path, const std::string& body,
                         const std::string& if_match);

// client_show.cpp: an answer for people. Texts that are not known are shown as they are.
std::string show_reply(const std::string& path, const std::string& body);

}  // namespace server
