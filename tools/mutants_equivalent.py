"""The mutants that no test can find because they have no effect that can be observed: the change, and the reason."""

REASONS: dict[str, str] = {
    (
        "packages/ste-core/csrc/signs/surrogates.h: static constexpr double kEnd = 800;  // for this t, exp(-t) is 0"
        " -> static constexpr double kEnd = 801;  // for this t, exp(-t) is 0"
    ): (
        "exp(-t) is 0 from t = 746 on in double, in which float is computed too: for any finite t beyond that, the"
        " products with it are the same zeros, with the same sign"
    ),
    (
        "packages/ste-core/csrc/rounding/cpu.cpp: cpu::Types<double, float>(), []<typename T>() {"
        " return &cpu::to_integer<T>; }); -> cpu::Types<float, float>(), []<typename T>() {"
        " return &cpu::to_integer<T>; });"
    ): (
        "without a loop of its own, float64 uses ATen's operation, as float16 does: the same bits, but a more"
        " expensive call, which the benchmark measures"
    ),
}
