"""Public data sets, laid out where the suites look for them: the command `unimodal prepare`.

sets.yaml lists their origins and table.py reads it. prepare.py fetches a data set with fetch.py and
archive.py; each other module converts one repository into tables and images.
"""
