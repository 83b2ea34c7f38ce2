// C++ functions as functions of a Python module: arguments are converted by their types in C++, the GIL is released
// while the function runs, and a C++ exception becomes a Python one. This is all that is needed of pybind11, whose
// header alone takes seconds to compile in every file.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace fastgan::python {

// What an argument must be: thrown where it is something else.
struct Expected {
  std::string what;
};

// Thrown where Python has raised already.
struct Raised {};

struct Release {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
// A reference that is owned.
using Object = std::unique_ptr<PyObject, Release>;

inline Object owned(PyObject* object) {
  if (object == nullptr) throw Raised{};
  return Object(object);
}

// --- from Python ---

int64_t to_int64(PyObject* object);
uint64_t to_uint64(PyObject* object);
double to_double(PyObject* object);
bool to_bool(PyObject* object);
std::string to_string(PyObject* object);
Object to_sequence(PyObject* object);  // a list or a tuple of its items

template <typename T>
struct From {
  static_assert(std::is_integral_v<T>);
  static T python(PyObject* object) {
    if constexpr (std::is_unsigned_v<T>) {
      const uint64_t value = to_uint64(object);
      if (value > std::numeric_limits<T>::max()) {
        throw Expected{"an integer of " + std::to_string(8 * sizeof(T)) + " bits, not negative"};
      }
      return static_cast<T>(value);
    } else {
      const int64_t value = to_int64(object);
      if (value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max()) {
        throw Expected{"an integer of " + std::to_string(8 * sizeof(T)) + " bits"};
      }
      return static_cast<T>(value);
    }
  }
};
template <>
struct From<double> {
  static double python(PyObject* object) { return to_double(object); }
};
template <>
struct From<bool> {
  static bool python(PyObject* object) { return to_bool(object); }
};
template <>
struct From<std::string> {
  static std::string python(PyObject* object) { return to_string(object); }
};
template <typename T>
struct From<std::vector<T>> {
  static std::vector<T> python(PyObject* object) {
    const Object items = to_sequence(object);
    std::vector<T> values(PySequence_Fast_GET_SIZE(items.get()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = From<T>::python(PySequence_Fast_GET_ITEM(items.get(), i));
    return values;
  }
};
template <typename T, size_t n>
struct From<std::array<T, n>> {
  static std::array<T, n> python(PyObject* object) {
    const auto given = From<std::vector<T>>::python(object);
    if (given.size() != n) throw Expected{"a sequence of " + std::to_string(n) + " integers"};
    std::array<T, n> values;
    for (size_t i = 0; i < n; ++i) values[i] = given[i];
    return values;
  }
};

// --- to Python ---

inline Object to_python(bool value) { return owned(PyBool_FromLong(value)); }
inline Object to_python(int64_t value) { return owned(PyLong_FromLongLong(value)); }
inline Object to_python(Object value) { return value; }

// --- calls ---

template <typename F>
struct Signature : Signature<decltype(&F::operator())> {};
template <typename F, typename R, typename... A>
struct Signature<R (F::*)(A...) const> {
  using Result = R;
  using Arguments = std::tuple<std::decay_t<A>...>;
};

class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { PyEval_RestoreThread(state_); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// A function with what Python keeps of it.
template <typename F>
struct Bound {
  PyMethodDef method;
  F function;
};

// Raises in Python what is being handled in C++; `at` is the argument that was being converted.
PyObject* raise(const char* function, PyObject* const* arguments, size_t at);
PyObject* raise_count(const char* function, size_t takes, Py_ssize_t got);

template <typename T>
T converted_at(size_t i, PyObject* const* arguments, size_t& at) {
  at = i;
  return From<T>::python(arguments[i]);
}

template <typename Arguments, size_t... i>
Arguments converted([[maybe_unused]] PyObject* const* arguments, [[maybe_unused]] size_t& at,
                    std::index_sequence<i...>) {
  return Arguments{converted_at<std::tuple_element_t<i, Arguments>>(i, arguments, at)...};
}

template <typename F>
PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  using Result = typename Signature<F>::Result;
  using Arguments = typename Signature<F>::Arguments;
  constexpr size_t takes = std::tuple_size_v<Arguments>;
  const auto& bound = *static_cast<Bound<F>*>(PyCapsule_GetPointer(self, nullptr));
  if (static_cast<size_t>(count) != takes) return raise_count(bound.method.ml_name, takes, count);
  size_t at = 0;
  try {
    const auto values = converted<Arguments>(arguments, at, std::make_index_sequence<takes>{});
    if constexpr (std::is_void_v<Result>) {
      const WithoutGil released;
      std::apply(bound.function, values);
    } else if constexpr (std::is_same_v<Result, Object>) {
      return std::apply(bound.function, values).release();
    } else {
      return to_python(std::apply(bound.function, values)).release();
    }
  } catch (...) {
    return raise(bound.method.ml_name, arguments, at);
  }
  Py_RETURN_NONE;
}

// A module of Python; its functions live as long as the process.
struct Module {
  PyObject* object;

  // The function's arguments are converted by their types; one that returns something keeps the GIL.
  template <typename F>
  void def(const char* name, F function, const char* doc = nullptr) const {
    const auto entry = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call<F>));
    auto bound = std::make_unique<Bound<F>>(Bound<F>{{name, entry, METH_FASTCALL, doc}, std::move(function)});
    const Object self = owned(PyCapsule_New(bound.get(), nullptr, nullptr));
    const Object module = owned(PyModule_GetNameObject(object));
    add(name, owned(PyCFunction_NewEx(&bound.release()->method, self.get(), module.get())));
  }

  void add(const char* name, Object value) const {
    if (PyModule_AddObject(object, name, value.get()) != 0) throw Raised{};
    value.release();
  }
};

}  // namespace fastgan::python
