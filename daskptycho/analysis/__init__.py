"""How close two complex images are: registration, relative error and Fourier ring correlation.

`registration` lays one image over another; `metrics` compares them and holds the public names.

This folder works on whole images in memory and imports nothing else of the package but its errors. The views,
the demonstration and the command line may import it.
"""
