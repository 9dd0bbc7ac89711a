"""Delta debugging: the few statements of a long list that still do it."""


def minimal(statements, still):
    """A sublist of which no single statement can be left out; `still(sublist)` says whether it shows the finding."""
    chunk = max(len(statements) // 2, 1)
    while True:
        start, shorter = 0, False
        while start < len(statements):
            rest = statements[:start] + statements[start + chunk :]
            if rest and still(rest):
                statements, shorter = rest, True
            else:
                start += chunk
        if chunk == 1 and not shorter:
            return statements
        chunk = max(chunk // 2, 1)
