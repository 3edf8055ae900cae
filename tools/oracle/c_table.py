"""Prints a table as C source."""


def table(declaration, items):
    print(f"static const {declaration}[{len(items)}] = {{")
    line = "   "
    for item in items:
        item = f" {item},"
        if len(line) + len(item) > 118:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")
