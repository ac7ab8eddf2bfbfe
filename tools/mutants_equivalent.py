"""The mutants that no test can find, since they change nothing that can be observed: why, by what they change."""

REASONS: dict[str, str] = {
    (
        "packages/ste-core/csrc/signs/surrogates.h: static constexpr double kEnd = 800;  // of which exp(-t) is 0"
        " -> static constexpr double kEnd = 801;  // of which exp(-t) is 0"
    ): (
        "exp(-t) is 0 from t = 746 on, in double, which float is computed in too: the products with it are the same"
        " zeros, with the same sign, whichever finite number beyond stands for t"
    ),
    (
        "packages/ste-core/csrc/rounding/cpu.cpp: cpu::Types<double, float>(), []<typename T>() {"
        " return &cpu::to_integer<T>; }); -> cpu::Types<float, float>(), []<typename T>() {"
        " return &cpu::to_integer<T>; });"
    ): (
        "without a loop of its own, float64 takes ATen's operation, as float16 does: the same bits, and a call that"
        " costs more, which the benchmark measures"
    ),
}
