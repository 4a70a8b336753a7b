// Checking passwords against the forms that password files hold: {PLAIN}, {SHA}, {SSHA}, $apr1$
// (htpasswd's MD5), and whatever the system's crypt() knows ($6$, $y$, …).
#pragma once

#include "core/slice.h"

namespace server {

enum class PasswordCheck : unsigned char { right, wrong, unusable };

// Compares in constant time. `unusable`: the stored form is malformed or not supported.
PasswordCheck check_password(core::Slice password, core::Slice stored);

}  // namespace server
