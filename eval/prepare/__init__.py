"""Data sets from their public origins, laid out where the suites look for them: the command
`unimodal prepare`.

sets.yaml says where each comes from; table.py reads it, prepare.py does it, fetch.py and archive.py
bring the files, and each of the other modules turns one repository into tables and images.
"""
