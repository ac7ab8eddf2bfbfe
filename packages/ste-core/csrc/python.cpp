// The eager call from Python: one function per op, which costs as much as torch.round.
//
// torch.ops.ste.<op> is correct too, but takes 1.5 times as long: it looks up attributes and boxes every argument.
// These functions unpack their arguments themselves, release the GIL and call the dispatcher through a typed handle.
// They take `py::handle`, never a typed argument: when pybind11 rejects an argument, its error prints it, data and all.
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/Scalar.h>
#include <c10/core/SymInt.h>
#include <c10/util/MaybeOwned.h>
#include <c10/util/string_view.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

namespace py = pybind11;

namespace {

using PythonArgument = py::handle;

// Which argument of which op is being read, and the op's x, if that has been read.
struct Place {
  const c10::OperatorHandle& op;
  size_t position;
  const at::Tensor* x;
};

// What to call instead, if a number was given for a tensor, or a tensor for a number.
const char* instead(const std::string& op, const std::string& name, bool wants_tensor, PyObject* value) {
  if (THPVariable_Check(value)) {
    return op == "scalar_clamp_ste" ? "; ste.tensor_clamp_ste takes tensors" : "";
  }
  if (!wants_tensor || !(PyFloat_Check(value) || PyLong_Check(value))) {
    return "";
  }
  return op.starts_with("tensor_clamp") && name != "x" ? "; ste.scalar_clamp_ste takes numbers"
                                                       : "; torch.tensor makes one from a number";
}

[[noreturn]] void reject(const Place& place, const char* expected, PythonArgument value) {
  const auto op = place.op.operator_name().name.substr(std::size("ste::") - 1);
  const auto& name = place.op.schema().arguments()[place.position].name();
  const auto type = py::type::of(value).attr("__name__").cast<std::string>();
  const bool wants_tensor = std::string_view(expected) == "a Tensor";
  throw py::type_error(
      op + ": " + name + " must be " + expected + ", got " + type + instead(op, name, wants_tensor, value.ptr()));
}

// One specialization per type of argument: how a schema spells it, and how to read it from Python.
template <typename T>
struct Argument;

template <>
struct Argument<at::Tensor> {
  static constexpr auto kind = c10::TypeKind::TensorType;
  using Passed = const at::Tensor&;
  static const at::Tensor& read(const Place& place, PythonArgument value) {
    if (!THPVariable_Check(value.ptr())) {
      reject(place, "a Tensor", value);
    }
    return THPVariable_Unpack(value.ptr());
  }
};

template <>
struct Argument<std::optional<at::Tensor>> {
  static constexpr auto kind = c10::TypeKind::OptionalType;
  using Passed = const std::optional<at::Tensor>&;
  static std::optional<at::Tensor> read(const Place& place, PythonArgument value) {
    return value.is_none() ? std::nullopt : std::optional(Argument<at::Tensor>::read(place, value));
  }
};

// A parameter that may be given as a number, which gets no gradient.
struct Parameter {};

// A Python or NumPy number, else null. A Tensor does not count, although it has __float__ too.
py::object number_or_null(PythonArgument value) {
  PyObject* const object = value.ptr();
  if (!THPVariable_Check(object)) {
    if (PyObject* const integer = PyIndex_Check(object) ? PyNumber_Index(object) : nullptr) {
      return py::reinterpret_steal<py::object>(integer);
    }
    PyErr_Clear();
    const auto* const as_number = Py_TYPE(object)->tp_as_number;
    if (as_number != nullptr && as_number->nb_float != nullptr) {
      if (PyObject* const real = PyNumber_Float(object)) {
        return py::reinterpret_steal<py::object>(real);
      }
      PyErr_Clear();
    }
  }
  return {};
}

py::object number(const Place& place, PythonArgument value) {
  auto result = number_or_null(value);
  if (!result) {
    reject(place, "a number", value);
  }
  return result;
}

// An integer beyond double's range becomes infinite, like a value beyond the range of x's dtype when it is rounded.
double as_double(const py::object& number) {
  const double value = PyFloat_AsDouble(number.ptr());
  if (value == -1.0 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    constexpr double infinity = std::numeric_limits<double>::infinity();
    return number < py::int_(0) ? -infinity : infinity;
  }
  return value;
}

template <>
struct Argument<at::Scalar> {
  static constexpr auto kind = c10::TypeKind::NumberType;
  using Passed = const at::Scalar&;
  static at::Scalar read(const Place& place, PythonArgument value) {
    if (PyFloat_CheckExact(value.ptr())) {
      return PyFloat_AS_DOUBLE(value.ptr());
    }
    const auto read = number(place, value);
    if (PyLong_Check(read.ptr())) {
      int overflow = 0;
      const long long integer = PyLong_AsLongLongAndOverflow(read.ptr(), &overflow);
      if (overflow == 0) {
        return static_cast<int64_t>(integer);
      }
    }
    return as_double(read);
  }
};

template <>
struct Argument<c10::SymInt> {
  static constexpr auto kind = c10::TypeKind::IntType;
  using Passed = c10::SymInt;
  static c10::SymInt read(const Place& place, PythonArgument value) {
    if (THPVariable_Check(value.ptr())) {
      // What ste.max_int returns. Reading it from another device would synchronize.
      const auto& tensor = THPVariable_Unpack(value.ptr());
      if (tensor.is_cpu() && tensor.sym_numel() == 1 && at::isIntegralType(tensor.scalar_type(), false)) {
        return tensor.item().toLong();
      }
    } else if (PyIndex_Check(value.ptr())) {
      const auto integer = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
      int overflow = 0;
      const long long result = integer ? PyLong_AsLongLongAndOverflow(integer.ptr(), &overflow) : 0;
      if (integer && overflow == 0) {
        return result;
      }
      PyErr_Clear();
    }
    reject(place, "an integer of 64 bits", value);
  }
};

template <>
struct Argument<Parameter> {
  static constexpr auto kind = c10::TypeKind::TensorType;
  using Passed = const at::Tensor&;
  static c10::MaybeOwned<at::Tensor> read(const Place& place, PythonArgument value) {
    const auto number = THPVariable_Check(value.ptr()) ? py::object() : number_or_null(value);
    if (!number) {
      return c10::MaybeOwned<at::Tensor>::borrowed(Argument<at::Tensor>::read(place, value));
    }
    const auto dtype = place.x->scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto options = at::TensorOptions().dtype(dtype).device(place.x->device());
    return c10::MaybeOwned<at::Tensor>::owned(at::scalar_tensor(as_double(number), options));
  }
};

// A Parameter, or None.
struct OptionalParameter {};

template <>
struct Argument<OptionalParameter> {
  static constexpr auto kind = c10::TypeKind::OptionalType;
  using Passed = const std::optional<at::Tensor>&;
  static std::optional<at::Tensor> read(const Place& place, PythonArgument value) {
    return value.is_none() ? std::nullopt : std::optional(*Argument<Parameter>::read(place, value));
  }
};

template <>
struct Argument<c10::string_view> {
  static constexpr auto kind = c10::TypeKind::StringType;
  using Passed = c10::string_view;
  static c10::string_view read(const Place& place, PythonArgument value) {
    Py_ssize_t size = 0;
    const char* const characters = PyUnicode_Check(value.ptr()) ? PyUnicode_AsUTF8AndSize(value.ptr(), &size) : nullptr;
    if (characters == nullptr) {
      PyErr_Clear();
      reject(place, "a string", value);
    }
    return {characters, static_cast<size_t>(size)};
  }
};

template <>
struct Argument<bool> {
  static constexpr auto kind = c10::TypeKind::BoolType;
  using Passed = bool;
  static bool read(const Place& place, PythonArgument value) {
    if (!PyBool_Check(value.ptr())) {
      reject(place, "a bool", value);
    }
    return value.ptr() == Py_True;
  }
};

// Converts what was read to what the op is called with.
template <typename T>
const T& passed(const T& argument) {
  return argument;
}
const at::Tensor& passed(const c10::MaybeOwned<at::Tensor>& argument) {
  return *argument;
}

// If every argument has one of these types, neither a subclass nor a mode can ask for __torch_function__. (torch has a
// function that tells, but does not export it.)
template <typename... Objects>
bool may_be_overridden(Objects... objects) {
  const auto is_plain = [](PyTypeObject* type) {
    return THPVariable_CheckTypeExact(type) || type == &PyFloat_Type || type == &PyLong_Type ||
           type == &PyUnicode_Type || type == &PyBool_Type || type == Py_TYPE(Py_None);
  };
  return at::impl::torch_function_mode_enabled() || !(is_plain(Py_TYPE(objects.ptr())) && ...);
}

// Whether it stands for a number while a graph is made. Converting it to a number would specialize the graph.
bool is_symbol(PythonArgument value) {
  const auto torch = py::module_::import("torch");
  return py::isinstance(value, torch.attr("SymInt")) || py::isinstance(value, torch.attr("SymFloat"));
}

template <typename>
using Object = PythonArgument;

// The eager function for ops whose arguments after x are `Arguments...`.
template <typename... Arguments>
struct Caller {
  static bool matches(const c10::FunctionSchema& schema) {
    const std::array kinds{c10::TypeKind::TensorType, Argument<Arguments>::kind...};
    return std::equal(
        kinds.begin(), kinds.end(), schema.arguments().begin(), schema.arguments().end(),
        [](c10::TypeKind kind, const c10::Argument& argument) { return argument.type()->kind() == kind; });
  }

  static py::object make(const c10::OperatorHandle& op, const py::object& overridable, const py::object& with_symbols) {
    const auto handle = op.typed<at::Tensor(const at::Tensor&, typename Argument<Arguments>::Passed...)>();
    return py::cpp_function([handle, overridable, with_symbols](PythonArgument x, Object<Arguments>... arguments) {
      if (may_be_overridden(x, arguments...)) {
        const auto overrides = py::module_::import("torch.overrides");
        const auto relevant = py::make_tuple(x, arguments...);
        if (overrides.attr("has_torch_function")(relevant).template cast<bool>()) {
          return py::object(overrides.attr("handle_torch_function")(overridable, relevant, x, arguments...));
        }
        if ((is_symbol(arguments) || ...)) {
          return py::object(with_symbols(x, arguments...));
        }
      }
      return call(handle, std::index_sequence_for<Arguments...>(), x, arguments...);
    });
  }

 private:
  template <typename Handle, size_t... Positions>
  static py::object call(
      const Handle& handle, std::index_sequence<Positions...>, PythonArgument x, Object<Arguments>... objects) {
    HANDLE_TH_ERRORS
    const at::Tensor& tensor = Argument<at::Tensor>::read({handle, 0, nullptr}, x);
    const std::tuple<decltype(Argument<Arguments>::read({handle, 0, &tensor}, objects))...> arguments{
        Argument<Arguments>::read({handle, Positions + 1, &tensor}, objects)...};
    const auto y = [&] {
      const py::gil_scoped_release no_gil;
      return handle.call(tensor, passed(std::get<Positions>(arguments))...);
    }();
    return py::reinterpret_steal<py::object>(THPVariable_Wrap(y));
    END_HANDLE_TH_ERRORS_PYBIND
  }
};

template <typename... Callers>
py::object first_match(const c10::OperatorHandle& op, const py::object& overridable, const py::object& with_symbols) {
  py::object result;
  const bool found =
      ((Callers::matches(op.schema()) && (result = Callers::make(op, overridable, with_symbols), true)) || ...);
  TORCH_CHECK(found, "no eager call is written for the signature ", op.schema());
  return result;
}

py::object function(const std::string& name, const py::object& overridable, const py::object& with_symbols) {
  HANDLE_TH_ERRORS
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(("ste::" + name).c_str(), "");
  return first_match<
      Caller<>, Caller<at::Tensor>, Caller<at::Scalar, at::Scalar>, Caller<at::Tensor, at::Tensor>,
      Caller<at::Scalar, c10::string_view, OptionalParameter>,
      Caller<OptionalParameter, c10::string_view, OptionalParameter>,
      Caller<
          Parameter, std::optional<at::Tensor>, c10::SymInt, c10::SymInt, at::Scalar, c10::string_view,
          std::optional<at::Tensor>>,
      Caller<Parameter, c10::string_view, at::Scalar, bool, std::optional<at::Tensor>>,
      Caller<
          c10::string_view, c10::SymInt, c10::string_view, c10::SymInt, OptionalParameter, std::optional<at::Tensor>>>(
      op, overridable, with_symbols);
  END_HANDLE_TH_ERRORS_PYBIND
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.def(
      "function", &function, py::arg("name"), py::arg("overridable"), py::arg("with_symbols"),
      "The eager call of the op `name`. `overridable` is the function that __torch_function__ gets, and "
      "`with_symbols` is called instead if a number is a symbol.");
}
