"""The paper as studies: plan, run, analyse, report. The command line is `taba`."""
