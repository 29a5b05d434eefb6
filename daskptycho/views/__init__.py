"""What a user sees of scans and results: figures, tables of facts, and the accessor ``ds.ptycho``.

`drawing` and `panels` draw the parts of a picture, `plotting` puts them together and `saving` writes them;
`facts` describes a scan or a result in words and `quantities` writes its numbers; `accessor` shows both in a
notebook.

This folder may import `analysis`, `scan` and `storage`. The dashboard, the demonstration and the command line
may import it; scans and runs may not.
"""
