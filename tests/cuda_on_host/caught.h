#pragma once

#include <exception>
#include <string>

// What the body throws, as text that lives until the next call; otherwise null.
template <class Body>
const char* caught(Body body) {
  static std::string thrown;
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    thrown = error.what();
    return thrown.c_str();
  }
}
