"""No program stands in the README that is not run."""

import re
import unittest

import readme
from test_five_calls import FILES
from test_migration import PROGRAMS


class Readme(unittest.TestCase):
    def test_each_program_is_run(self):
        taken = {*FILES, *(name for program, others in PROGRAMS.items() for name in [f"{program}.go", *others])}
        self.assertEqual(set(readme.programs()) - taken, set())

    def test_each_block_of_code_is_a_program(self):
        blocks = re.findall(r"^```(?:go|java|js|javascript|python)$", readme.text(), re.MULTILINE)
        self.assertEqual(len(blocks), len(readme.programs()))


if __name__ == "__main__":
    unittest.main()
