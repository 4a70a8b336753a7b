// Stored passwords of every form, right and wrong.
#include "server/http/password.h"

#include <gtest/gtest.h>

using server::check_password;
using server::PasswordCheck;

TEST(Password, EveryForm) {
    // htpasswd -nbm / -nbs, openssl passwd -6, a salted SHA made by hand
    const char* right[][2] = {
        {"secret", "{PLAIN}secret"},
        {"secret", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="},
        {"password", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="},
        {"myPassword", "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/"},
        {"rasmuslerdorf", "$1$rasmusle$rISCgZzpwk3UhDidwXvin0"},
    };
    for (auto& [password, stored] : right) {
        EXPECT_EQ(check_password(password, stored), PasswordCheck::right) << stored;
        EXPECT_EQ(check_password("other", stored), PasswordCheck::wrong) << stored;
    }
}

TEST(Password, MalformedForms) {
    EXPECT_EQ(check_password("x", "{SHA}***"), PasswordCheck::unusable);
    EXPECT_EQ(check_password("x", "{SSHA}YQ=="), PasswordCheck::unusable);
    EXPECT_EQ(check_password("x", "$9$bad"), PasswordCheck::unusable);
    EXPECT_EQ(check_password("", "{PLAIN}"), PasswordCheck::right);
}
