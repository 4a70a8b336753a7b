# Writes OUT, a C++ file holding every Lua module below ROOT (see lua/embedded.h).
# Run by CMake's build: cmake -DROOT=lualib -DOUT=embedded.cpp -P embed.cmake
file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/*.lua)
list(SORT files)

set(text "// Generated from lualib/ by lua/embed.cmake: do not edit.\n")
string(APPEND text "#include \"lua/embedded.h\"\n\n#include <array>\n\n")
string(APPEND text "namespace lua {\nnamespace {\n\nusing std::string_view_literals::operator\"\"sv;\n\n")
list(LENGTH files count)
string(APPEND text "constexpr std::array<EmbeddedModule, ${count}> modules{{\n")
file(WRITE ${OUT}.new "${text}")

foreach(path IN LISTS files)
  string(REGEX REPLACE "\\.lua$" "" name ${path})
  string(REGEX REPLACE "/init$" "" name ${name})
  string(REPLACE "/" "." name ${name})
  file(READ ${ROOT}/${path} source)
  file(APPEND ${OUT}.new "    {\"${name}\"sv, \"${path}\"sv, R\"embedded_lua(")
  file(APPEND ${OUT}.new "${source}")
  file(APPEND ${OUT}.new ")embedded_lua\"sv},\n")
endforeach()

file(APPEND ${OUT}.new "}};\n\n}  // namespace\n\n")
file(APPEND ${OUT}.new "std::span<const EmbeddedModule> embedded_modules() { return modules; }\n\n}  // namespace lua\n")
file(RENAME ${OUT}.new ${OUT})
