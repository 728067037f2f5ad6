"""A notebook to start from, and the picture at the head of the README: public functions of taba_core alone."""
