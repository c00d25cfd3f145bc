"""Captions for panoramic clips, in the manner of 360DVD's "360 Text Fusion" or of VideoPanda's evaluation.

  clips.py          what there is to caption: the clips of a dataset, videos, stills; and the frame to look at
  views.py          the perspective views of that frame, as arrays and as jpg files
  sentences.py      sentences for views, written elsewhere
  image_to_text.py  sentences for views, by a model on this machine (torch)
  fusion.py         the sentences of a clip become one caption: by a template, or what is asked of a language model
  endpoint.py       asking a language model: one chat-completions server, politely
  journal.py        the file in which every finished caption is safe at once, and the table at the end
  run.py            all of it, from the input to captions.csv

Source: 360DVD §3.3 and its 360 Text Fusion; VideoPanda, supplement (captions of the middle frame, "A view of …").
"""
