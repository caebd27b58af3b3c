"""Triton's interpreter without work that it repeats at every launch."""

from triton.runtime import interpreter


def patch_the_language_once() -> None:
    """The interpreter searches ``triton.language`` for functions to replace at every launch and every nested call, and
    puts them back after a launch: 40 % of its time. A process that only interprets may leave them replaced."""
    patch, done = interpreter._patch_lang, set()

    def patch_once(fn):
        if id(fn.__globals__) not in done:
            patch(fn)
            done.add(id(fn.__globals__))
        return interpreter._LangPatchScope()  # with nothing to put back

    interpreter._patch_lang = patch_once
