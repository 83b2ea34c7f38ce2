// Conversions from Python, and exceptions to it: what does not depend on a function's types.
#include "python.h"

#include <new>
#include <stdexcept>

namespace fastgan::python {
namespace {

// An exact int, which most arguments are already.
Object to_int(PyObject* object) {
  if (PyLong_Check(object)) return Object(Py_NewRef(object));
  PyObject* const integer = PyNumber_Index(object);
  if (integer == nullptr) {
    PyErr_Clear();
    throw Expected{"an integer"};
  }
  return Object(integer);
}

}  // namespace

int64_t to_int64(PyObject* object) {
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(to_int(object).get(), &overflow);
  if (overflow != 0) throw Expected{"an integer of 64 bits"};
  return value;
}

uint64_t to_uint64(PyObject* object) {
  const uint64_t value = PyLong_AsUnsignedLongLong(to_int(object).get());
  if (value == static_cast<uint64_t>(-1) && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw Expected{"an integer of 64 bits, not negative"};
  }
  return value;
}

double to_double(PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw Expected{"a number"};
  }
  return value;
}

bool to_bool(PyObject* object) {
  if (!PyBool_Check(object)) throw Expected{"True or False"};
  return object == Py_True;
}

std::string to_string(PyObject* object) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &size) : nullptr;
  if (text == nullptr) {
    PyErr_Clear();
    throw Expected{"a string"};
  }
  return {text, static_cast<size_t>(size)};
}

Object to_sequence(PyObject* object) {
  PyObject* const items = PySequence_Fast(object, "");
  if (items == nullptr) {
    PyErr_Clear();
    throw Expected{"a sequence of integers"};
  }
  return Object(items);
}

PyObject* raise(const char* function, PyObject* const* arguments, size_t at) {
  try {
    throw;
  } catch (const Raised&) {
  } catch (const Expected& expected) {
    PyErr_Format(PyExc_TypeError, "%s(): argument %zu must be %s, got %.100R", function, at + 1, expected.what.c_str(),
                 arguments[at]);
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::out_of_range& error) {
    PyErr_SetString(PyExc_IndexError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyObject* raise_count(const char* function, size_t takes, Py_ssize_t got) {
  PyErr_Format(PyExc_TypeError, "%s() takes %zu arguments, got %zd", function, takes, got);
  return nullptr;
}

}  // namespace fastgan::python
